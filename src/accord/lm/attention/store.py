"""Keys and values of sequences that grow by a token at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accord.lm.attention.decoding import DecodeStep
    from accord.lm.attention.prefixes import ReusedBlocks

INITIAL_CAPACITY = 64  # tokens of a new store; it doubles where more are needed

# An attention module, and the number of its call in a pass: a model may run a layer twice.
LayerKey = tuple[nn.Module, int]


@dataclass
class CallCounter:
    """Counts the calls of each attention module in one pass through a model."""

    counts: dict[nn.Module, int] = field(default_factory=dict)

    def next(self, module: nn.Module) -> LayerKey:
        """Count a call of the module; returns the module with the call's number, 1 for the
        first."""
        self.counts[module] = self.counts.get(module, 0) + 1
        return module, self.counts[module]


@dataclass
class KeyValueStore:
    """Keys and values (rows, G, capacity, D) of each attention layer, for sequences of different
    lengths.

    What no row has written is zero. Rows and capacity grow on demand. `dtype` is the precision of
    the store; None takes that of the first write. With `transposes_keys` the keys of a head lie in
    memory feature by feature, as products of a few queries read them.
    """

    dtype: torch.dtype | None = None
    transposes_keys: bool = False
    layers: dict[LayerKey, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def write(self, layer: LayerKey, row: int, keys: Tensor, values: Tensor) -> None:
        """Write the first n tokens of a row, keys and values (G, n, D)."""
        for buffer, new in zip(
            self._ensure_capacity(layer, keys, row + 1, keys.shape[1]), (keys, values), strict=True
        ):
            buffer[row, :, : new.shape[1]] = new

    def append(
        self, layer: LayerKey, step: DecodeStep, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write one token of each row, keys and values (R, G, D), at the step's positions; returns
        the keys and values of all tokens so far (R, G, width, D)."""
        rows, width = len(keys), step.width
        buffers = self._ensure_capacity(layer, keys.transpose(0, 1), rows, width)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            if step.has_equal_positions:
                buffer[:rows, :, width - 1] = new
            elif not buffer.is_contiguous():
                buffer[step.row_index, :, step.positions] = new.to(buffer.dtype)
            else:
                index = step.flat_write_index(*buffer.shape[1:3])
                flat = new.flatten(0, 1).to(buffer.dtype)
                buffer.view(-1, buffer.shape[3]).index_copy_(0, index, flat)
        return self.read(layer, rows, width)

    def read(self, layer: LayerKey, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """The keys and values of the first `width` tokens of the first `rows` rows."""
        keys, values = self.layers[layer]
        return keys[:rows, :, :width], values[:rows, :, :width]

    def move(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Overwrite target rows with the first `width` tokens of source rows."""
        for buffers in self.layers.values():
            for buffer in buffers:
                for source, target in zip(sources, targets, strict=True):
                    buffer[target, :, :width] = buffer[source, :, :width]

    def erase(self, rows: Sequence[int]) -> None:
        """Set rows to zero: a key that is not finite spoils what follows there, masked or not."""
        for buffers in self.layers.values():
            for buffer in buffers:
                for row in rows:
                    buffer[row : row + 1] = 0

    def _ensure_capacity(
        self, layer: LayerKey, like: Tensor, rows: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The layer's buffers, created or enlarged; `like` (G, n, D) gives shape, dtype and
        device."""
        old = self.layers.get(layer)
        if old is not None and old[0].shape[0] >= rows and old[0].shape[2] >= width:
            return old
        old_rows, capacity = (
            (0, INITIAL_CAPACITY) if old is None else (old[0].shape[0], old[0].shape[2])
        )
        rows = max(rows, old_rows if old_rows >= rows else 2 * old_rows)
        while capacity < width:
            capacity *= 2
        values = like.new_zeros(
            rows, like.shape[0], capacity, like.shape[2], dtype=self.dtype or like.dtype
        )
        keys = torch.zeros_like(values)
        if self.transposes_keys:
            keys = keys.view(rows, like.shape[0], like.shape[2], capacity).transpose(2, 3)
        new = keys, values
        for buffer, before in zip(new, old or (), strict=False):
            buffer[: before.shape[0], :, : before.shape[2]] = before
        self.layers[layer] = new
        return new


@dataclass
class Prefill:
    """Stores the keys and values of a packed batch of prompts: prompt i in row `rows[i]`; without
    rows they are stored in the pool of `reused` alone.

    The batch has prompts alone; `starts` are the flat indices of their first tokens, and then the
    number of all tokens. With `reused`, what it has of the prompts is not in the batch.
    """

    store: KeyValueStore
    rows: Sequence[int]
    starts: Sequence[int]
    reused: ReusedBlocks | None = None
    calls: CallCounter = field(default_factory=CallCounter)

    def write(
        self, module: nn.Module, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Store a layer's keys and values (G, T, D); returns those before them (G, P, D), one
        prompt after another, or None where there are none."""
        layer = self.calls.next(module)
        past = None if self.reused is None else self.reused.exchange(layer, keys, values)
        if not self.rows:
            return past
        before = [0] * len(self.rows) if past is None else self.reused_lengths
        ends = list(accumulate(before))
        parts = list(zip(self.rows, pairwise(self.starts), before, ends, strict=True))
        for row, (a, b), n, end in reversed(parts):  # the last row's capacity is enough for all
            new = keys[:, a:b], values[:, a:b]
            if past is not None and n:
                new = (
                    torch.cat([past[0][:, end - n : end], new[0]], 1),
                    torch.cat([past[1][:, end - n : end], new[1]], 1),
                )
            self.store.write(layer, row, *new)
        return past

    @property
    def reused_lengths(self) -> Sequence[int]:
        """How many tokens of each prompt are not in the batch."""
        return [0] * len(self.rows) if self.reused is None else self.reused.past
