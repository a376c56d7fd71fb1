"""Values as valid JSON holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

from pydantic import BaseModel


def json_ready(value: Any) -> Any:
    """`value` with only dict, list, str, int, float, bool and None in it.

    NaN and the infinities become null, since JSON has no number for them: a null among numbers
    reads "not a finite number". Raises TypeError for anything that JSON can't hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, BaseModel):
        return json_ready(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_ready(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return json_ready(value.tolist())
    raise TypeError(f"JSON can't hold {value!r} of type {type(value).__name__}")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key in JSON is text, not {key!r} of type {type(key).__name__}")
    return key
