"""Columns read under other names, as settings ask for it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from accord.data.columns import ALIASES, COLUMNS, OPTIONAL_COLUMNS
from accord.data.files import DataRow
from accord.errors import DataError


def rename_columns(
    rows: Sequence[DataRow], columns: Mapping[str, str], subject: str, *, required: bool = True
) -> list[DataRow]:
    """The rows with the file's column `columns[name]` called `name`.

    A column that had this name is called `original name`. Where not `required`, a column that is
    absent is left out if the rows have one of the name itself. Raises DataError for a name that
    nothing reads, or a column that the rows don't have.
    """
    present = dict.fromkeys(column for row in rows for column in row.values)
    used = columns_to_rename(present, columns, subject, required=required)
    return [rename_row(row, used) for row in rows] if used else list(rows)


def columns_to_rename(
    present: Collection[str], columns: Mapping[str, str], subject: str, *, required: bool = True
) -> dict[str, str]:
    """Of `columns` those that rows with the columns `present` have. Raises DataError as
    `rename_columns`."""
    readable = dict.fromkeys([*(c for names in COLUMNS.values() for c in names), *OPTIONAL_COLUMNS])
    readable |= dict.fromkeys(name for names in ALIASES.values() for name in names)
    used: dict[str, str] = {}
    for name, column in columns.items():
        if name not in readable:
            raise DataError(
                f"`columns` names {name!r}, which is not read.{_suggest(name, list(readable))} "
                f"What is read is {', '.join(readable)}."
            )
        if column in present:
            used[name] = column
        elif required or name not in present:
            raise DataError(
                f"{subject} has no column {column!r}, which `columns` names for `{name}`."
                f"{_suggest(column, list(present))} It has {', '.join(present) or 'none'}."
            )
    return used


def rename_row(row: DataRow, used: Mapping[str, str]) -> DataRow:
    """The row with the column `used[name]` called `name`."""
    return replace(row, values=_rename(row.values, used)) if used else row


def _rename(values: Mapping[str, object], used: Mapping[str, str]) -> dict[str, object]:
    rest = {name: value for name, value in values.items() if name not in used.values()}
    named = {name: values[column] for name, column in used.items() if column in values}
    return {
        **{f"original {name}" if name in used else name: value for name, value in rest.items()},
        **named,
    }


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
