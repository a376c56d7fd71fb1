"""The values of a request's body: each is of the right kind and within its bounds, or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from accord.serve.errors import ApiError

N = TypeVar("N", bound=float | None)


def read_integer(
    body: Mapping[str, Any], key: str, default: int | None, low: int, high: int
) -> int | None:
    """An integer from `low` to `high`; `default` where the key is missing or null."""
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, value, "an integer")
    if not low <= value <= high:
        raise _wrong(key, value, f"from {low} to {high}")
    return value


def read_number(
    body: Mapping[str, Any], key: str, default: N, low: float, high: float, *, within: str = ""
) -> float | N:
    """A finite number from `low` to `high`; `within` names the object that has the key."""
    value = body.get(key)
    key = within + key
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(key, value, "a number")
    if not low <= value <= high:
        raise _wrong(key, value, f"from {low:g} to {high:g}")
    return float(value)


def read_flag(
    body: Mapping[str, Any], key: str, default: bool = False, *, within: str = ""
) -> bool:
    """True or false."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(within + key, value, "true or false")
    return value


def read_object(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A JSON object; an empty one where the key is missing."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, value, "an object")
    return value


def read_strings(body: Mapping[str, Any], key: str, max_count: int) -> tuple[str, ...]:
    """A string or a list of strings, none of them empty."""
    value = body.get(key)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise _wrong(key, value, "a text or a list of texts, none of them empty")
    if len(values) > max_count:
        raise _wrong(key, f"{len(values)} texts", f"at most {max_count}")
    return tuple(values)


def _wrong(key: str, value: Any, expected: str) -> ApiError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
    return ApiError(
        400, f"`{key}` must be {expected}, and is {shown}.", param=key, code="invalid_value"
    )
