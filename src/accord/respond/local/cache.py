"""A KV cache for sampling that is allocated once and written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """A full-attention layer's keys and values, with capacity for all tokens to come.

    transformers' DynamicLayer concatenates old and new tensors at every token, which copies the
    whole cache; this one writes into a buffer and returns a view of the filled part.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Write the new tokens' (rows, heads, n, width) and return all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = tuple(self._allocate(x) for x in (key_states, value_states))
        stop = self.length + key_states.shape[-2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : stop] = new
        self.length = stop
        self.keys, self.values = (b[:, :, :stop] for b in self.buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows by index, which may repeat or omit some; the capacity stays."""
        self.buffers = tuple(b.index_select(0, beam_idx) for b in self.buffers)
        self.keys, self.values = (b[:, :, : self.length] for b in self.buffers)

    def get_seq_length(self) -> int:
        return self.length

    def _allocate(self, like: Tensor) -> Tensor:
        rows, heads, _, width = like.shape
        return torch.empty(rows, heads, self.capacity, width, dtype=like.dtype, device=like.device)


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """A cache for `capacity` tokens; layers that are not full attention keep transformers' type."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache
