"""Rows of a file, a folder, or a hub data set, each with its path and line."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from accord.data.hub import is_hub_name, is_saved_dataset, read_hub_rows, read_saved_rows
from accord.errors import DataError
from accord.records import Source

READABLE_FILES = ".jsonl, .json, .csv or .parquet (the first three also with .gz behind)"
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
MAX_CELL_LENGTH = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row before it is parsed: column names to values."""

    values: dict[str, Any]
    source: Source


def read_rows(path: str | Path) -> Iterator[DataRow]:
    """The rows at `path`: a file, a folder of files, a `save_to_disk` folder, or a hub name.

    A hub name is `owner/name`, `owner/name:split` or `owner/name:config:split`. Lines count from 1.

    Raises DataError at once where nothing can be read at `path`, and on iteration at a row that
    can't be parsed or where there is no row at all.
    """
    name, path = str(path), Path(path).expanduser()
    if path.is_dir():
        rows = read_saved_rows(path) if is_saved_dataset(path) else _read_files(_data_files(path))
    elif path.exists():
        rows = _read_files([path])
    elif is_hub_name(name) and _extension(path) not in READERS and not path.parent.is_dir():
        rows = read_hub_rows(name)
    else:
        raise DataError(describe_missing_path(path))
    return require_rows(
        (DataRow(values, Source(origin, line)) for origin, line, values in rows),
        name,
    )


def require_rows(rows: Iterator[DataRow], name: str) -> Iterator[DataRow]:
    """The rows. Raises DataError on iteration where there are none."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} holds no rows. Give a data set with at least one.")
    yield first
    yield from rows


NumberedRow = tuple[str, int, dict[str, Any]]
"""The path, the line counted from 1, and the values."""


def _extension(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    return (
        suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    )


def _read_files(paths: list[Path]) -> Iterator[NumberedRow]:
    readers = [(path, _reader(path)) for path in paths]
    return ((str(path), line, v) for path, reader in readers for line, v in reader(path))


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]:
    extension = _extension(path)
    if extension not in READERS:
        raise DataError(
            f"{path} ends with {path.suffix or path.name!r}, which is not read here. "
            f"Give a file with rows: {READABLE_FILES}."
        )
    return READERS[extension]


def _data_files(folder: Path) -> list[Path]:
    paths = sorted(
        p
        for p in folder.iterdir()
        if p.is_file()
        and not p.name.startswith(".")
        and p.name not in RESULT_FILES
        and _extension(p) in READERS
    )
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
    if not path.parent.is_dir():
        return (
            f"{path} does not exist, nor does its folder {path.parent}. "
            "Give a file, a folder, or a hub name (owner/name)."
        )
    names = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
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


def _open_file(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    line = 0
    try:
        with _open_file(path) as file:
            for line, raw in enumerate(file, start=1):
                yield line, raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{line} is not UTF-8 text ({error.reason} at byte "
            f"{error.start} of the line). Save the file as UTF-8."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} can't be unpacked after line {line} ({error}). Copy or download it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error


def _json_error(path: Path, line: int, error: json.JSONDecodeError, text: str) -> DataError:
    start = max(0, error.pos - 30)
    near = text[start : error.pos + 30].strip()
    return DataError(
        f"{path}:{line} is not valid JSON: {error.msg} at character {error.colno}, near {near!r}. "
        "Correct or remove that line."
    )


def _require_object(path: Path, line: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{path}:{line} is {type(value).__name__} {str(value)[:60]!r}, not a JSON object. "
            "Each row must be an object of column names and values."
        )
    return value


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in _read_lines(path):
        if not text.strip():
            continue
        try:
            value = json.loads(
                text.rstrip("\r\n")
            )  # so that the position of an error lies in this line
        except json.JSONDecodeError as error:
            raise _json_error(path, line, error, text) from error
        yield line, _require_object(path, line, value)


def _read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A list of objects (`line` is then the row), one object, or JSON lines named .json."""
    text = "".join(text for _, text in _read_lines(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise _json_error(path, error.lineno, error, text) from error
        yield from _read_jsonl(path)
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield number, _require_object(path, number, item)


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_CELL_LENGTH)  # the default of 128 KiB is less than a long dialogue
    reader = csv.reader((text for _, text in _read_lines(path)), strict=True)
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) < len(header):
            raise DataError(f"{path}:1 names a column twice. Rename one of: {', '.join(header)}.")
        while True:
            line = reader.line_num + 1  # a row may span lines: this is its first
            cells = next(reader, None)
            if cells is None:
                return
            if len(cells) > len(header):
                raise DataError(
                    f"{path}:{line} has {len(cells)} cells, but the header names {len(header)} "
                    "columns. Quote cells that hold commas."
                )
            if cells:
                padded = cells + [None] * (len(header) - len(cells))
                yield (
                    line,
                    {n: _parse_cell(n, text) for n, text in zip(header, padded, strict=True)},
                )
    except csv.Error as error:
        raise DataError(f"{path}:{line} is not valid CSV: {error}. Correct that row.") from error


def _parse_cell(name: str, text: str | None) -> Any:
    """Parses a cell as JSON where its column must hold a list, or where it holds turns."""
    if text and (
        (name in {"responses", "ranks"} and text.startswith("["))
        or text.startswith(('[{"role"', '[{"content"', '[{"from"', '[{"value"'))
    ):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} can't be read as Parquet after row {number}: {error}. "
            "Write or download it again."
        ) from error


READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
