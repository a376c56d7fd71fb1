"""Keys and values of beginnings of prompts that were read before, in blocks of tokens.

Requests share system prompts, templates and earlier turns. A block's keys and values depend on the
tokens up to its end alone, so a prompt that begins with the same tokens need not read them again
(as in vLLM's automatic prefix caching; Kwon et al. 2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from accord.lm.attention.store import LayerKey

BLOCK = 16  # tokens

_BlockKey = tuple[int, tuple[int, ...]]  # the number of the block before it, and its tokens


@dataclass(frozen=True, slots=True)
class _Block:
    number: int  # never given twice, so that nothing follows a block that was removed
    slot: int


@dataclass
class PrefixPool:
    """At most `max_blocks` blocks; those that were not used for longest make room for new ones.

    `ahead` is a prompt of which a part was read before its turn, and the tokens of that part: as
    it finds them, they are not reused.
    """

    max_blocks: int
    layers: dict[LayerKey, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tokens_reused: int = 0
    ahead: tuple[Sequence[int], int] = ((), 0)
    _blocks: OrderedDict[_BlockKey, _Block] = field(default_factory=OrderedDict)
    _count: int = 0  # of blocks so far

    def reuse(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The slots of the blocks with which each prompt begins; at least its last token is left,
        whose state is needed."""
        slots = [self._find(ids) for ids in prompts]
        prompt, uncounted = self.ahead
        if prompt in prompts:
            self.ahead = ((), 0)
        else:
            uncounted = 0  # another prompt was read ahead, whose request may be cancelled
        self.tokens_reused += max(0, BLOCK * sum(map(len, slots)) - uncounted)
        return slots

    def known(self, ids: Sequence[int]) -> int:
        """How many tokens of a prompt `reuse` would find."""
        return BLOCK * len(self._find(ids))

    def reserve(
        self, prompts: Sequence[Sequence[int]], reused: Sequence[Sequence[int]]
    ) -> list[tuple[int, int, int]]:
        """Slots for the blocks of prompts that are not here yet: (prompt, first token, slot). They
        must be written before the next call; blocks that are `reused` stay."""
        in_use = {slot for slots in reused for slot in slots}
        reserved: list[tuple[int, int, int]] = []
        for i, ids in enumerate(prompts):
            before = -1
            for start in range(0, len(ids) - BLOCK + 1, BLOCK):
                key = (before, tuple(ids[start : start + BLOCK]))
                block = self._blocks.get(key)
                if block is None:
                    slot = self._free_slot(in_use)
                    if slot is None:
                        return reserved
                    block = self._blocks[key] = _Block(self._count, slot)
                    self._count += 1
                    reserved.append((i, start, slot))
                in_use.add(block.slot)
                before = block.number
        return reserved

    def read(self, layer: LayerKey, slots: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (G, n · BLOCK, D) of n slots."""
        keys, values = (
            buffer.index_select(0, slots).transpose(0, 1).flatten(1, 2)
            for buffer in self.layers[layer]
        )
        return keys, values

    def write(self, layer: LayerKey, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write a layer's keys and values (G, n · BLOCK, D) into n slots."""
        buffers = self._ensure_slots(layer, keys, int(slots.max()) + 1)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer.index_copy_(0, slots, new.unflatten(1, (-1, BLOCK)).transpose(0, 1))

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self.layers.clear()

    def _find(self, ids: Sequence[int]) -> list[int]:
        keys, slots, before = [], [], -1
        for start in range(0, len(ids) - BLOCK, BLOCK):
            key = (before, tuple(ids[start : start + BLOCK]))
            block = self._blocks.get(key)
            if block is None:
                break
            keys.append(key)
            slots.append(block.slot)
            before = block.number
        for key in reversed(keys):  # no block is removed before those that follow it
            self._blocks.move_to_end(key)
        return slots

    def _free_slot(self, in_use: set[int]) -> int | None:
        if len(self._blocks) < self.max_blocks:
            return len(self._blocks)
        key, oldest = next(iter(self._blocks.items()))
        if oldest.slot in in_use:
            return None
        del self._blocks[key]
        return oldest.slot

    def _ensure_slots(self, layer: LayerKey, like: Tensor, count: int) -> tuple[Tensor, Tensor]:
        old = self.layers.get(layer)
        if old is not None and len(old[0]) >= count:
            return old
        count = min(self.max_blocks, max(count, 0 if old is None else 2 * len(old[0])))
        new = tuple(like.new_zeros(count, like.shape[0], BLOCK, like.shape[2]) for _ in range(2))
        for buffer, before in zip(new, old or (), strict=False):
            buffer[: len(before)] = before
        self.layers[layer] = (new[0], new[1])
        return self.layers[layer]


class ReusedBlocks:
    """How a prefill uses a pool: `past[i]` tokens of prompt i are there already, and the rest of
    it is computed; full blocks of that are written to the pool."""

    def __init__(self, pool: PrefixPool, prompts: Sequence[Sequence[int]]) -> None:
        self.pool = pool
        slots = pool.reuse(prompts)
        self.past = [BLOCK * len(s) for s in slots]
        self._slots = torch.tensor([slot for s in slots for slot in s])
        reserved = pool.reserve(prompts, slots)
        self._new_slots = torch.tensor([slot for _, _, slot in reserved])
        starts = [0]
        for ids, past in zip(prompts, self.past, strict=True):
            starts.append(starts[-1] + len(ids) - past)
        first = torch.tensor([starts[i] + a - self.past[i] for i, a, _ in reserved])
        self._new_tokens = (first[:, None] + torch.arange(BLOCK)).flatten() if reserved else first

    def exchange(
        self, layer: LayerKey, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Write the new blocks of keys and values (G, T, D); returns those of the past
        (G, P, D), one prompt after another, or None where no prompt has any."""
        past = self.pool.read(layer, self._slots) if len(self._slots) else None
        if len(self._new_slots):
            new = (x.index_select(1, self._new_tokens) for x in (keys, values))
            self.pool.write(layer, self._new_slots, *new)
        return past
