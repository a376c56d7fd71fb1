"""Rows of a file, a folder, or a hub data set, each with its path and line."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accord.data.checks import RowError
from accord.data.csv_rows import read_csv
from accord.data.hub import OriginRow, is_saved_dataset, read_hub_rows, read_saved_rows
from accord.data.json_rows import ReadRow, read_json, read_jsonl
from accord.data.lines import require_file
from accord.data.parquet_rows import read_parquet
from accord.data.values import plain_row, printable
from accord.errors import DataError
from accord.hub_names import is_hub_name, means_hub
from accord.records import Source

READABLE_FILES = ".jsonl, .json, .csv, .tsv or .parquet (all but the last also with .gz behind)"
# Files without rows that accord's stages write; a folder of rows may contain them.
RESULT_FILES = {
    "manifest.json",
    "stage.json",
    "metrics.jsonl",
    "ratings.json",
    "evaluation.json",
    "results.json",
    "report.json",
}
HELD_OUT_SPLITS = {"test", "eval", "valid", "validation", "dev"}


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row before it is parsed: column names to values, or why it can't be used."""

    values: dict[str, Any]
    source: Source
    error: RowError | None = None


def make_row(values: Mapping[Any, Any] | RowError, source: Source) -> DataRow:
    """A row with plain values, or with the reason why it can't be used."""
    if not isinstance(values, RowError):
        try:
            return DataRow(plain_row(values), source)
        except RowError as error:
            values = error
    return DataRow({}, source, values)


def require_values(row: DataRow) -> dict[str, Any]:
    """The row's values. Raises DataError where it can't be used."""
    if row.error is not None:
        raise DataError(f"{row.source} can't be used: {row.error}. Correct or remove that row.")
    return row.values


def read_rows(path: str | Path) -> Iterator[DataRow]:
    """The rows at `path`: a file, a folder of files, a `save_to_disk` folder, or a hub name.

    A hub name is `owner/name`, `owner/name:split` or `owner/name:config:split`. Lines count from 1.

    A row that can't be used, such as a line that is not valid JSON, has an `error` in the place of
    values. Raises DataError at once where nothing can be read at `path`, and on iteration where a
    file can't be read further or there is no row at all.
    """
    name = str(path)
    path = expand_path(path)
    mode = file_mode(path)
    if mode is None and means_hub(name):
        rows = read_hub_rows(name)
    elif mode is None:
        raise DataError(describe_missing_path(path))
    elif stat.S_ISDIR(mode):
        rows = read_saved_rows(path) if is_saved_dataset(path) else _read_files(_data_files(path))
    else:
        rows = _read_files([path])
    return require_rows(
        (make_row(values, Source(printable(origin), line)) for origin, line, values in rows),
        printable(name),
    )


def expand_path(path: str | Path) -> Path:
    """The path with `~` replaced by the home folder. Raises DataError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"{printable(str(path))} begins with the home folder of a user that this machine does "
            "not know. Give the whole path."
        ) from None


def file_mode(path: Path) -> int | None:
    """The mode of the file or folder at `path`, None where nothing is there.

    Raises DataError where that can't be known: a name that is too long, links in a circle, a
    folder that may not be entered.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        name = printable(str(path))
        shown = name if len(name) <= 200 else f"{name[:100]}…{name[-60:]}"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{shown} can't be read: {reason}. Check the path.") from None


def require_rows(rows: Iterator[DataRow], name: str) -> Iterator[DataRow]:
    """The rows. Raises DataError on iteration where there are none."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} holds no rows. Give a data set with at least one.")
    yield first
    yield from rows


def _extension(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    return (
        suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    )


def _read_files(paths: list[Path]) -> Iterator[OriginRow]:
    readers = [(path, _reader(path)) for path in paths]
    return ((str(path), line, v) for path, reader in readers for line, v in reader(path))


def _reader(path: Path) -> Callable[[Path], Iterator[ReadRow]]:
    require_file(path)
    extension = _extension(path)
    if extension not in READERS:
        raise DataError(
            f"{printable(str(path))} ends with {printable(path.suffix or path.name)!r}, which is "
            f"not read here. Give a file with rows: {READABLE_FILES}."
        )
    return READERS[extension]


def _data_files(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{printable(str(folder))} can't be read: {error.strerror}.") from error
    paths = [
        p
        for p in entries
        if p.is_file()
        and not p.name.startswith(".")
        and p.name not in RESULT_FILES
        and _extension(p) in READERS
    ]
    if not paths:
        raise DataError(f"{folder} is a folder without rows. Give one that holds {READABLE_FILES}.")
    splits = {_split_word(p) for p in paths}
    if "train" in splits and splits & HELD_OUT_SPLITS:
        raise DataError(
            f"{folder} holds both training and held-out rows "
            f"({', '.join(p.name for p in paths)}), which must not be mixed. Name the file."
        )
    return paths


def _split_word(path: Path) -> str:
    return path.name.lower().replace("-", ".").replace("_", ".").split(".")[0]


def describe_missing_path(path: Path) -> str:
    """The message for a path that does not exist: a near name, or what its folder holds."""
    return printable(_describe_missing(path))


def _describe_missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which does not exist. Give another path."
    if not path.parent.is_dir():
        return (
            f"{path} does not exist, nor does its folder {path.parent}. "
            "Give a file, a folder, or a hub name (owner/name)."
        )
    try:
        names = sorted(n for n in os.listdir(path.parent) if not n.startswith("."))
    except OSError as error:
        return f"{path} does not exist; the folder {path.parent} can't be read: {error.strerror}."
    # Compared without extensions, so that a wrong extension does not hide a near name.
    stems = {name.split(".")[0]: name for name in names}
    near = difflib.get_close_matches(path.name.split(".")[0], stems, n=1, cutoff=0.6)
    if near:
        return f"{path} does not exist. Did you mean {path.parent / stems[near[0]]}?"
    listing = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    contents = f"holds {listing}" if names else "is empty"
    remedy = ""
    if is_hub_name(str(path)):
        remedy = " A name is looked up on the hub only where no folder has the owner's name."
    return f"{path} does not exist; the folder {path.parent} {contents}.{remedy}"


READERS: dict[str, Callable[[Path], Iterator[ReadRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
}
