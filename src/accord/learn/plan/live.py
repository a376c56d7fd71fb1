"""The bytes that tensors without data would occupy: each operation is counted, none is computed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = frozenset({aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.linear})


class LiveBytes(TorchDispatchMode):
    """Within, `now` are the bytes of all storages that the operations made and that still exist,
    and `peak` the most of it since the last `mark`.

    Storages are counted once, however many views they have. Those of `known` tensors (weights,
    buffers) are not counted. `products` are the different matrix products in bf16, by the shapes
    and strides of their factors: a library that compiles its products compiles each of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        # They are held, so that no new storage gets the identity of one of them.
        self.known = [tensor.untyped_storage() for tensor in known]
        self.sizes: dict[int, int] = {id(storage): 0 for storage in self.known}
        self.products: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in PRODUCTS:
            factors = [x for x in args if isinstance(x, Tensor)]
            if factors[-1].dtype == torch.bfloat16:
                layouts = tuple((tuple(x.shape), x.stride()) for x in factors)
                self.products.add((func.overloadpacket, layouts))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def mark(self) -> tuple[int, int]:
        """The peak since the last mark and the bytes now; starts the next interval."""
        result = self.peak, self.now
        self.peak = self.now
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.sizes:
            return
        self.sizes[key] = size = storage.nbytes()
        weakref.finalize(storage, self._free, key)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)
