"""Conversion of values to valid JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

from pydantic import BaseModel


def to_json_value(value: Any) -> Any:
    """`value` converted to dict, list, str, int, float, bool and None.

    NaN and the infinities become null, since JSON has no number for them: a null among numbers
    means "not a finite number". Raises TypeError for anything that JSON can't hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_check_key(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    if isinstance(value, BaseModel):
        return to_json_value(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return to_json_value(value.tolist())
    raise TypeError(f"JSON can't hold {value!r} of type {type(value).__name__}")


def _check_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key in JSON is text, not {key!r} of type {type(key).__name__}")
    return key
