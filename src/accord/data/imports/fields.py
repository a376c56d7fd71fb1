"""The columns of a row that say who gave a verdict, on what, and how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from accord.data.checks import RowError, parse_number
from accord.data.imports.judged import MAX_RANK, JudgedRow


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


def fill_from_columns(row: JudgedRow, values: Mapping[str, Any], notes: Counter[str]) -> JudgedRow:
    """The row of a published data set, with what its columns say of the verdicts beside it: who
    gave them, on what, and how (ANY_ROW). What the data set's own columns say goes before; a value
    of another kind is counted in the notes and left."""
    given: dict[str, Any] = {}
    for column in ANY_ROW:
        try:
            given |= verdict_fields({column: values.get(column)}, notes)
        except RowError as error:
            notes[f"{error.reason}, and is not read"] += 1
    annotator = given.pop("annotator", None)
    if not given and annotator is None:
        return row
    opinions = []
    for opinion in row.opinions:
        stated = {name: value for name, value in opinion.fields.items() if value is not None}
        opinions.append(
            replace(opinion, annotator=opinion.annotator or annotator, fields={**given, **stated})
        )
    return replace(row, opinions=tuple(opinions))


def leave_out(fields: dict[str, Any], names: Sequence[str], of: str, notes: Counter[str]) -> None:
    """Remove fields that a verdict of this kind has not, and count them in the notes."""
    for name in names:
        if fields.pop(name, None) is not None:
            notes[f"the column `{name}` of {of} is not stored"] += 1


def opened_texts(value: Any, count: int) -> tuple[str, ...]:
    """What the rendered prompt already wrote of each response; of one alone, its text; "" where the
    row does not say. Raises RowError."""
    if value is None:
        return ("",) * count
    texts = [value] if isinstance(value, str) and count == 1 else value
    if not isinstance(texts, list | tuple) or [type(t) for t in texts] != [str] * count:
        raise RowError(f"`opened` must be {count} text{'s' * (count > 1)}", repr(value)[:80])
    return tuple(texts)


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
ANY_ROW = tuple(name for name in READERS if name not in ("source", "strength", "probability"))
"""Columns that say the same in a row of a published data set, whose own `source` is another."""
