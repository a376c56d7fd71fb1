"""Messages between the processes of a run: tensors as flat bytes, beside the rest of the value.

torch.distributed's object collectives pickle a tensor with its whole storage. N rows that are views
of one flat tensor, as `Tensor.split` returns them, are then N copies of it: quadratic in memory.
Here the bytes of each tensor's elements are sent, so a message is as long as its content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

_PLAIN = (int, float, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class TensorAt:
    """Stands for a tensor whose bytes start at `start` of the content."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def separate_tensors(value: Any) -> tuple[Any, Tensor]:
    """A value with a TensorAt for each tensor in its lists, tuples, dicts and dataclasses; and the
    content, the bytes (uint8) of all of them."""
    parts: list[Tensor] = []
    length = 0

    def take(item: Any) -> Any:
        nonlocal length
        if not isinstance(item, Tensor):
            return item
        start, part = length, item.detach().cpu().contiguous().view(-1).view(torch.uint8)
        parts.append(part)
        length += len(part)
        return TensorAt(start, item.dtype, tuple(item.shape))

    structure = _map(value, take)
    return structure, torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def join_tensors(structure: Any, content: Tensor) -> Any:
    """The value of `separate_tensors`; its tensors are on the CPU, each with its own storage."""

    def put(item: Any) -> Any:
        if not isinstance(item, TensorAt):
            return item
        stop = item.start + torch.Size(item.shape).numel() * item.dtype.itemsize
        # A copy: it has the alignment of its dtype, and does not retain the whole content.
        return content[item.start : stop].clone().view(item.dtype).view(item.shape)

    return _map(structure, put)


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with `change` applied to whatever its containers hold; itself where that changes
    nothing."""
    if isinstance(value, dict):
        items = {key: _map(item, change) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if isinstance(value, list | tuple):
        if all(isinstance(item, _PLAIN) for item in value):
            return value  # token ids: many
        changed = [_map(item, change) for item in value]
        if all(new is old for new, old in zip(changed, value, strict=True)):
            return value
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    if is_dataclass(value) and not isinstance(value, type | TensorAt):
        names = [field.name for field in fields(value)]
        old = {name: getattr(value, name) for name in names}
        new = {name: _map(item, change) for name, item in old.items()}
        return type(value)(**new) if any(new[n] is not old[n] for n in names) else value
    return change(value)
