"""Which tokens of a packed batch attend to which, laid out as rows and blocks of rows.

A group's prompt with its first response is one causal row; each further response is a row of its
own, whose queries are its tokens and whose keys are the prompt and itself. A long row stands
alone and is read in place; short rows of like shape are gathered into padded blocks, so that a
batch of many short rows is few calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LONG_ROW = 160  # queries from which a row stands alone
BLOCK_CELLS = 1 << 20  # query-key cells in a padded block
BLOCK_FILL = 0.7  # a block is closed when less of it than this would be real cells
QUERY_TILE = 128  # queries taken at once: later tiles need not see the keys after them


@dataclass(frozen=True, slots=True)
class Row:
    """Queries [start, start + queries) of the flat tokens, at positions that follow the prefix.

    Its keys are the `prefix_length` tokens from flat index `prefix` on, and its own tokens.
    """

    start: int
    queries: int
    prefix: int = 0
    prefix_length: int = 0

    @property
    def keys(self) -> int:
        return self.prefix_length + self.queries

    @property
    def cells(self) -> int:
        return self.queries * self.keys


@dataclass(frozen=True)
class Block:
    """n rows as one call: a single row unpadded, or several with queries padded at their end and
    prefixes padded at their start, so that all rows' own tokens begin at the same key.

    own (n, Lq) and prefix (n, Lp) are flat indices, 0 where padded; real_own and real_prefix the
    cells that are not.
    """

    rows: tuple[Row, ...]
    own: Tensor
    real_own: Tensor
    prefix: Tensor
    real_prefix: Tensor
    masks: dict[tuple[int, int, int | None], Tensor | None] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        return self.own.shape[1]

    @property
    def prefix_length(self) -> int:
        return self.prefix.shape[1]

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Ranges of queries, each of which sees no key after its end."""
        for start in range(0, self.queries, QUERY_TILE):
            yield start, min(start + QUERY_TILE, self.queries)

    def mask(self, start: int, stop: int, window: int | None) -> tuple[int, Tensor] | None:
        """What a tile of queries must not see: the first key column concerned, and True (n or 1,
        stop − start, columns) where a key is hidden. None where all is seen."""
        first = self.prefix_length + start  # the keys before are seen by all, but for two reasons:
        if len(self.rows) > 1 and not bool(self.real_prefix.all()):
            first = 0  # padding among the prefixes
        if window is not None and self.prefix_length + stop > window:
            first = 0  # keys too far back
        key = (start, stop, window if first == 0 else None)
        if key not in self.masks:
            self.masks[key] = self._hidden(first, start, stop, window)
        hidden = self.masks[key]
        return None if hidden is None else (first, hidden)

    def _hidden(self, first: int, start: int, stop: int, window: int | None) -> Tensor | None:
        device, p = self.own.device, self.prefix_length
        q = torch.arange(p + start, p + stop, device=device)[:, None]
        k = torch.arange(first, p + stop, device=device)[None, :]
        hidden = (k > q)[None]
        if window is not None:
            hidden = hidden | (k <= q - window)[None]
        if first == 0 and len(self.rows) > 1:
            padding = torch.zeros(len(self.rows), p + stop, dtype=torch.bool, device=device)
            padding[:, :p] = ~self.real_prefix
            hidden = hidden | padding[:, None]
        return hidden if bool(hidden.any()) else None


@dataclass(frozen=True)
class AttentionPlan:
    """A batch's groups, packed flat, each (prompt length, response lengths)."""

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    device: torch.device
    block_masks: dict[int | None, Any] = field(default_factory=dict)  # FlexAttention's, by window

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rows of all groups, the short ones in blocks."""
        rows = _rows(self.groups)
        short = [r for r in rows if r.queries < LONG_ROW]
        short.sort(key=lambda r: (r.prefix_length > 0, r.keys, r.queries, r.start))
        blocks = [[r] for r in rows if r.queries >= LONG_ROW] + _alike(short)
        return tuple(_block(b, self.device) for b in blocks)

    @property
    def tokens(self) -> int:
        return sum(prompt + sum(responses) for prompt, responses in self.groups)

    def tokens_of(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each flat token (T,): its group, its response (−1 in a prompt), its position."""
        group: list[int] = []
        response: list[int] = []
        position: list[int] = []
        for number, (prompt, responses) in enumerate(self.groups):
            group += [number] * (prompt + sum(responses))
            response += [-1] * prompt
            position += range(prompt)
            for own, length in enumerate(responses):
                response += [own] * length
                position += range(prompt, prompt + length)
        return torch.tensor(group), torch.tensor(response), torch.tensor(position)


def _rows(groups: Sequence[tuple[int, Sequence[int]]]) -> list[Row]:
    rows: list[Row] = []
    start = 0
    for prompt, responses in groups:
        rows.append(Row(start, prompt + responses[0]))
        begin = start + prompt + responses[0]
        for length in responses[1:]:
            rows.append(Row(begin, length, start, prompt))
            begin += length
        start = begin
    return rows


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows, sorted by keys, in blocks that are mostly real cells and not too large."""
    blocks: list[list[Row]] = []
    current: list[Row] = []
    real = queries = prefix = 0
    for row in rows:
        wider, longer = max(queries, row.queries), max(prefix, row.prefix_length)
        cells = (len(current) + 1) * wider * (wider + longer)
        same_kind = not current or (current[0].prefix_length > 0) == (row.prefix_length > 0)
        filled = real + row.cells
        if current and (not same_kind or cells > BLOCK_CELLS or filled < BLOCK_FILL * cells):
            blocks.append(current)
            current, filled, wider, longer = [], row.cells, row.queries, row.prefix_length
        current.append(row)
        queries, prefix, real = wider, longer, filled
    return [*blocks, current] if current else blocks


def _block(rows: Sequence[Row], device: torch.device) -> Block:
    i = torch.arange(max(r.queries for r in rows))[None]
    width = max(r.prefix_length for r in rows)
    starts = torch.tensor([[r.start] for r in rows])
    prefixes = torch.tensor([[r.prefix] for r in rows])
    lengths = torch.tensor([[r.prefix_length] for r in rows])
    j = torch.arange(width)[None] - (width - lengths)  # the prefix ends where the row's own begin
    real_own, real_prefix = i < torch.tensor([[r.queries] for r in rows]), j >= 0
    return Block(
        rows=tuple(rows),
        own=torch.where(real_own, starts + i, 0).to(device),
        real_own=real_own.to(device),
        prefix=torch.where(real_prefix, prefixes + j, 0).to(device),
        real_prefix=real_prefix.to(device),
    )
