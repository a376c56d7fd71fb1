"""The error for a row that can't be used, and checks of single values that raise it."""

from __future__ import annotations

import math
from typing import Any


class RowError(ValueError):
    """A row that can't be used: `reason` groups rows of the same fault, `detail` is this row's."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def require_text(value: Any, column: str) -> str:
    """`value` as text that can be encoded. Raises RowError where it is not."""
    if value is None:
        raise RowError(f"no value in `{column}`")
    if not isinstance(value, str):
        raise RowError(
            f"`{column}` holds neither text nor messages",
            f"{type(value).__name__} {truncate(value)}",
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(
                f"`{column}` holds half a character (a lone surrogate)", truncate(ascii(value))
            ) from None
    return value


def require_response(response: str, column: str) -> str:
    """`response`, if it is not blank. Raises RowError where it is."""
    if not response.strip():
        raise RowError("an empty response", f"`{column}`")
    return response


def parse_number(value: Any, column: str) -> float:
    """A finite number, or its digits as text, since CSV holds text only. Raises RowError."""
    if value is None:
        raise RowError(f"no value in `{column}`")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"`{column}` is no finite number", repr(value))
    return number


def parse_all_finished(value: Any, count: int) -> tuple[bool, ...] | None:
    """Which responses ended with EOS; None where all did, or where the row does not say."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or [type(v) for v in value] != [bool] * count:
        raise RowError(f"`finished` must be {count} times true or false", repr(value))
    return None if all(value) else tuple(value)


def truncate(value: Any) -> str:
    """A value as a message shows it, in at most 60 characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")
