"""The columns of a row that say who gave a verdict, on what, and how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from accord.data.checks import RowError, parse_number
from accord.data.imports.judged import MAX_RANK


def verdict_fields(values: Mapping[str, Any], notes: Counter[str]) -> dict[str, Any]:
    """The fields of a verdict that the row's columns give; empty cells are left out.

    Raises RowError where one has a value of another kind.
    """
    fields = {}
    for column, read in READERS.items():
        value = values.get(column)
        if value is not None and value != "" and (given := read(value, column)) != ():
            fields[column] = given
    return fields


def json_list(value: Any, column: str) -> list[Any]:
    """A list, or the JSON text of one, as CSV holds it. Raises RowError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list | tuple):
        raise RowError(f"`{column}` is no list")
    return list(value)


def _text(value: Any, column: str) -> str:
    if isinstance(value, dict | list | tuple | bool):
        raise RowError(f"`{column}` is no text", repr(value)[:60])
    return str(value)


def _whole(value: Any, column: str) -> int:
    number = parse_number(value, column)
    if abs(number) > MAX_RANK or number != int(number):
        raise RowError(f"`{column}` is no whole number", repr(value))
    return int(number)


def _tags(value: Any, column: str) -> tuple[str, ...]:
    return tuple(_text(item, column) for item in json_list(value, column))


READERS: dict[str, Callable[[Any, str], Any]] = {
    "annotator": _text,
    "criterion": _text,
    "round": _whole,
    "strength": _whole,
    "reason": _text,
    "comment": _text,
    "tags": _tags,
    "seconds": parse_number,
    "source": _text,
    "probability": parse_number,
    "guideline": _text,
    "view": _text,
    "session": _text,
}
