"""Rows that are in memory already: dicts, records, a `datasets.Dataset`, a pandas DataFrame.

They become the rows (`DataRow`) that a JSONL file of them gives, so that both are checked alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from accord.data.checks import RowError
from accord.data.files import DataRow, make_row, require_rows
from accord.data.values import printable
from accord.data.write import record_json
from accord.errors import DataError
from accord.records import UNKNOWN, Record, Source


def memory_name(rows: Any) -> str:
    """What messages call `rows`: the name of its type, such as `list` or `DataFrame`."""
    return type(rows).__name__


def read_memory_rows(rows: Iterable[Any]) -> Iterator[DataRow]:
    """The rows of an iterable of mappings or records, of a data set, or of a DataFrame.

    Rows count from 1. A record that knows its source keeps it. As in a JSONL file, NumPy values,
    tensors and tuples are plain numbers and lists, and a DataFrame's missing values are None.

    A row that is neither a mapping nor a record has an `error`. Raises DataError at once where
    `rows` is no collection of rows, and on iteration where there is no row at all.
    """
    name = memory_name(rows)
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        keys = f" with the keys {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else ""
        raise DataError(
            f"The data set is a {name}{keys}, which has no rows. Give a list with one dict of "
            "column names and values for each row; of a data set with several splits, give one."
        )
    items = _read_frame(rows) if hasattr(rows, "notna") else rows
    return require_rows(
        (_make_row(item, Source(name, n, in_memory=True)) for n, item in enumerate(items, start=1)),
        f"The {name}",
    )


def _read_frame(frame: Any) -> list[dict[str, Any]]:
    """The rows of a pandas DataFrame, None where a value is missing (NaN, NaT, NA)."""
    if not frame.columns.is_unique:
        names = ", ".join(map(str, frame.columns))
        raise DataError(f"The DataFrame names a column twice. Rename one of: {names}.")
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _make_row(item: Any, source: Source) -> DataRow:
    if isinstance(item, get_args(Record)):
        return _row_from_record(item, source)
    if not isinstance(item, Mapping):
        detail = f"{type(item).__name__} {_start(item)}"
        return DataRow({}, source, RowError("not a dict of column names and values", detail))
    return make_row(item, source)


def _start(item: Any) -> str:
    """The beginning of a value, as far as it can be shown."""
    try:
        return printable(repr(str(item)[:60]))
    except (ValueError, RecursionError):
        return "…"


def _row_from_record(record: Record, source: Source) -> DataRow:
    values = record_json(record)
    if "response" in values:  # by the column's own name, so that no note speaks of an alias
        values["completion"] = values.pop("response")
    return make_row(values, source if record.source == UNKNOWN else record.source)
