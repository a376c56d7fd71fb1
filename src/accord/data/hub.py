"""Data sets of the Hugging Face hub, and folders written by `datasets.save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from accord.data.checks import RowError
from accord.data.parquet_rows import BATCH_ROWS, rows_of_batch
from accord.data.values import printable
from accord.errors import DataError


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk`, as one data set or as several splits."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


OriginRow = tuple[str, int, "dict[str, Any] | RowError"]
"""A path or hub name, the row counted from 1, and its values, or why they can't be used."""


def read_hub_rows(hub_name: str) -> Iterator[OriginRow]:
    """The rows of a hub data set; without a split, those of `train` or of the only split.

    Raises DataError where the hub or the cache has no such data set, configuration or split.
    """
    return _number_rows(*_load(hub_name))


def hub_rows_identity(hub_name: str) -> tuple[str, int]:
    """What distinguishes the rows of a hub data set from those of another version, and their bytes.

    Raises DataError as `read_hub_rows`.
    """
    loaded, _ = _load(hub_name)
    return str(loaded._fingerprint), int(loaded.data.nbytes)


def stream_hub_rows(hub_name: str) -> Iterator[OriginRow]:
    """As `read_hub_rows`, but each row comes from the hub when it is asked for, and the data set is
    not downloaded."""
    rows, origin = _load(hub_name, streaming=True)
    for number, row in enumerate(rows, 1):
        yield origin, number, dict(row)


def _load(hub_name: str, **options: bool) -> tuple[Any, str]:
    """The rows of a split, and its whole name."""
    import datasets

    name, *rest = hub_name.split(":")
    split = rest[-1] if rest else None
    config = rest[0] if len(rest) == 2 else None
    try:
        loaded = datasets.load_dataset(name, config, split=split, **options)
    except Exception as error:  # the library, its hub client and its readers raise many kinds
        raise DataError(
            f"{hub_name} is neither a file or folder here nor a data set that the hub gave: "
            f"{type(error).__name__}: {_first_line(error)} Check the name (owner/name, "
            "owner/name:split or owner/name:config:split) and the connection, or download the "
            "data set and give its folder."
        ) from error
    if split is None:
        splits = sorted(loaded)
        split = "train" if "train" in loaded else splits[0]
        if split != "train" and len(splits) > 1:
            raise DataError(
                f"{hub_name} has the splits {', '.join(splits)}. Name one: {name}:{splits[0]}."
            )
        loaded = loaded[split]
    return loaded, ":".join(part for part in (name, config, split) if part)


def read_saved_rows(folder: Path) -> Iterator[OriginRow]:
    """The rows of a `save_to_disk` folder. Raises DataError where it holds several splits."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for a broken folder
        raise DataError(
            f"{folder} looks like a folder of datasets.save_to_disk but can't be loaded: "
            f"{type(error).__name__}: {_first_line(error)} Save it again."
        ) from error
    if isinstance(loaded, dict):
        splits = sorted(loaded)
        if len(splits) > 1:
            raise DataError(
                f"{folder} has the splits {', '.join(splits)}. Name one: {folder / splits[-1]}."
            )
        return _number_rows(loaded[splits[0]], str(folder / splits[0]))
    return _number_rows(loaded, str(folder))


def _number_rows(rows: Any, origin: str) -> Iterator[OriginRow]:
    size, number = len(rows), 0
    for start in range(0, size, BATCH_ROWS):
        part = partial(_convert_rows, rows, start)
        for row in rows_of_batch(min(BATCH_ROWS, size - start), part):
            number += 1
            yield origin, number, row


def _convert_rows(rows: Any, offset: int, start: int, length: int) -> list[dict[str, Any]]:
    """Rows `offset + start` and behind of a data set, which decodes images and audio with them."""
    begin = offset + start
    columns = rows[begin : begin + length]
    if isinstance(columns, list):
        return [dict(row) for row in columns]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _first_line(error: Exception) -> str:
    line = (printable(str(error)).strip().splitlines() or ["no message"])[0]
    return line if line.endswith(".") else line + "."
