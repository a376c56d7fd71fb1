"""Values of rows as JSON gives them, whatever they were read from, and what no row may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accord.data.checks import RowError
from accord.records import Message, message_json

MAX_DEPTH = 64  # lists within lists; far below Python's limit of recursion
MAX_INTEGER_BITS = 14_000  # Python refuses to read or write integers of over 4,300 digits


def plain_row(values: Mapping[Any, Any]) -> dict[str, Any]:
    """A row's values with the containers and numbers that JSON gives; other types stay.

    Raises RowError where a name or a value can't be written again (half a character, a number of
    thousands of digits), where values nest too deep, or where two columns have the same name.
    """
    row: dict[str, Any] = {}
    for name, value in values.items():
        column = _plain_name(name)
        try:
            # `meta` may hold what was a column of its own, a level deeper.
            plain = to_plain(value, depth=-1 if column == "meta" else 0)
        except RowError as error:
            raise RowError(f"`{column}` {error.reason}", error.detail) from None
        if column in row:
            raise RowError(f"`{column}` is named twice in a row")
        row[column] = plain
    return row


def to_plain(value: Any, depth: int = 0) -> Any:
    """`value` with plain containers and numbers. Raises RowError as `plain_row`; its reason is to
    follow the column's name."""
    if value is None or value is True or value is False or type(value) is float:
        return value
    if isinstance(value, str):
        return _require_encodable(value)
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise RowError("holds a number of thousands of digits")
        return value
    if depth > MAX_DEPTH:
        raise RowError(f"nests more than {MAX_DEPTH} levels deep")
    if isinstance(value, Message):
        plain = message_json(value)
        return to_plain(plain if value.learn else {**plain, "weight": 0}, depth)
    if isinstance(value, Mapping):
        plain = {_plain_name(key): to_plain(item, depth + 1) for key, item in value.items()}
        if len(plain) < len(value):
            raise RowError("holds a key twice")
        return plain
    if isinstance(value, list | tuple):
        return [to_plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, tensors
        return to_plain(value.tolist(), depth + 1)
    return value


def json_value(value: Any) -> Any:
    """A plain value as JSON can hold it.

    NaN and infinite numbers are None; types that JSON lacks, such as Parquet's dates, become text.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return printable(str(value))


def has_non_finite(value: Any) -> bool:
    """Whether a plain value is, or holds, a number that is NaN or infinite."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(has_non_finite, value.values()))
    return isinstance(value, list) and any(map(has_non_finite, value))


def printable(text: str) -> str:
    """The text with an escape sequence for each half of a character (such as in a file's name
    that is not UTF-8), so that messages and reports can be written."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain_name(name: Any) -> str:
    text = name if isinstance(name, str) else str(name)
    try:
        return _require_encodable(text)
    except RowError:
        raise RowError("a column's name holds half a character", printable(text)) from None


def _require_encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if "\udc80" <= text[error.start] <= "\udcff":
                reason = "holds bytes that are not UTF-8, or half a character (a lone surrogate)"
            else:
                reason = "holds half a character (a lone surrogate)"
            raise RowError(reason, ascii(text[max(0, error.start - 20) : error.start + 20])) from (
                None
            )
    return text
