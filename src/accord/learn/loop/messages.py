"""Messages between the processes of a run: a value as flat bytes, its tensors beside its structure.

A pickled tensor brings its whole storage with it. N rows that are views of one flat tensor, as
`Tensor.split` returns them, would be pickled as N copies of it: quadratic in memory. Here the bytes
of each tensor's elements follow the pickle of the rest, so a message is as long as its content.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

_LENGTH_BYTES = 8  # the length of the pickled structure comes first


def pack_message(value: Any) -> Tensor:
    """A value of this run's own objects as one flat tensor of bytes (uint8)."""
    tensors: list[Tensor] = []
    structure = io.BytesIO()
    _Pickler(structure, tensors).dump(value)
    length = structure.tell().to_bytes(_LENGTH_BYTES, "little")
    head = torch.frombuffer(bytearray(length + structure.getvalue()), dtype=torch.uint8)
    return torch.cat([head, *map(_bytes, tensors)])


def unpack_message(message: Tensor) -> Any:
    """The value of `pack_message`; each of its tensors is on the CPU and has its own storage."""
    head = int.from_bytes(bytes(message[:_LENGTH_BYTES].tolist()), "little")
    end = _LENGTH_BYTES + head
    structure = io.BytesIO(message[_LENGTH_BYTES:end].numpy().tobytes())
    return _Unpickler(structure, message[end:]).load()


def _bytes(tensor: Tensor) -> Tensor:
    """The elements of a tensor as bytes (uint8), without the rest of its storage."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


class _Pickler(pickle.Pickler):
    """Pickles all but the tensors, which it collects in order."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._tensors = tensors
        self._offset = 0

    def persistent_id(self, value: Any) -> tuple[int, torch.dtype, tuple[int, ...]] | None:
        if not isinstance(value, Tensor):
            return None
        start = self._offset
        self._tensors.append(value)
        self._offset += value.numel() * value.element_size()
        return start, value.dtype, tuple(value.shape)


class _Unpickler(pickle.Unpickler):
    """Reads tensors from the bytes that follow the structure."""

    def __init__(self, file: io.BytesIO, content: Tensor) -> None:
        super().__init__(file)
        self._content = content

    def persistent_load(self, position: tuple[int, torch.dtype, tuple[int, ...]]) -> Tensor:
        start, dtype, shape = position
        size = torch.Size(shape).numel() * dtype.itemsize
        # A copy: it has the alignment of its dtype, and does not retain the whole message.
        return self._content[start : start + size].clone().view(dtype).view(shape)
