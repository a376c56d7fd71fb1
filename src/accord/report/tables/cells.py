"""Cells of tables: a measure's value and interval as text."""

from __future__ import annotations

from dataclasses import dataclass

from accord.measure.measures import Column
from accord.report.formatting import (
    format_duration,
    format_margin,
    format_number,
    format_percent,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, small print below it, and whether it is the best of its column."""

    text: str
    small: str = ""
    best: bool = False


def format_value(value: float | None, column: Column) -> str:
    """The value in its column's format; a dash where it is unknown."""
    if column.format == "duration":
        return format_duration(value)
    if column.format == "share":
        return format_percent(value, column.digits)
    return format_number(value, column.digits)


def table_cell(
    value: float | None,
    low: float | None,
    high: float | None,
    column: Column,
    best: float | None = None,
) -> Cell:
    """The value with its interval as small print. It is marked where it equals `best`."""
    if column.format == "number":
        small = format_margin(value, low, high, column.digits)
    elif low is None or high is None or (column.format == "rank" and low == high):
        small = ""
    else:
        small = f"{format_value(low, column)} to {format_value(high, column)}"
    return Cell(format_value(value, column), small, value is not None and value == best)
