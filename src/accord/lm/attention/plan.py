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

LONG_ROW = 100  # queries from which a row stands alone
BLOCK_CELLS = 1 << 20  # query-key cells in a padded block
BLOCK_FILL = 0.7  # a block is closed when less of it than this would be real cells
QUERY_TILE = 192  # queries that go back at once: later tiles need not see the keys after them


@dataclass(frozen=True, slots=True)
class Scores:
    """How a model makes attention weights of queries and keys.

    weights = softmax over keys (and the sink, if any) of cap(scale · q·k), where cap(x) is
    c·tanh(x/c) for a softcap c (Gemma 2) and x itself without.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None


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

    own (n, Lq) and prefix (n, Lp) are flat indices, `nowhere` where padded.
    """

    rows: tuple[Row, ...]
    own: Tensor
    prefix: Tensor
    nowhere: int
    biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        return self.own.shape[1]

    @property
    def prefix_length(self) -> int:
        return self.prefix.shape[1]

    def is_causal(self, window: int | None) -> bool:
        """Whether each query sees all keys up to its own number, and nothing else hides any."""
        return self.prefix_length == 0 and (window is None or self.queries <= window)

    def tiles(self, window: int | None) -> Iterator[tuple[int, int, int]]:
        """Ranges of queries [start, stop), which see no key after prefix + stop, and the first
        key that any of them sees."""
        for start in range(0, self.queries, QUERY_TILE):
            first = 0 if window is None else max(0, self.prefix_length + start - window + 1)
            yield start, min(start + QUERY_TILE, self.queries), first

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """What is added to scores, (n or 1, Lq, Lp + Lq): 0 where a key is seen, else −∞."""
        if (window, dtype) not in self.biases:
            device, p = self.own.device, self.prefix_length
            q = torch.arange(p, p + self.queries, device=device)[:, None]
            k = torch.arange(p + self.queries, device=device)[None, :]
            hidden = (k > q)[None]
            if window is not None:
                hidden = hidden | (k <= q - window)[None]
            if bool((self.prefix == self.nowhere).any()):
                padding = torch.zeros(len(self.rows), k.shape[1], dtype=torch.bool, device=device)
                padding[:, :p] = self.prefix == self.nowhere
                hidden = hidden | padding[:, None]
            zeros = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self.biases[window, dtype] = zeros.masked_fill_(hidden, -torch.inf)
        return self.biases[window, dtype]


@dataclass(frozen=True)
class AttentionPlan:
    """A batch's groups, packed flat, each (prompt length, response lengths).

    With `others` all of that was read before, and what asks is a further response to each prompt,
    of so many tokens; these come after all others.
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    device: torch.device
    others: tuple[int, ...] = ()
    block_masks: dict[int | None, Any] = field(default_factory=dict)  # FlexAttention's, by window

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rows of all groups, the short ones in blocks; those that hold a prompt come before
        those that only see it."""
        rows = _others(self.groups, self.others) if self.others else _rows(self.groups)
        short = [r for r in rows if r.queries < LONG_ROW]
        short.sort(key=lambda r: (r.prefix_length > 0, r.keys, r.queries, r.start))
        blocks = [[r] for r in rows if r.queries >= LONG_ROW] + _alike(short)
        blocks.sort(key=lambda rows: rows[0].prefix_length > 0)
        return tuple(_block(b, self.tokens, self.device) for b in blocks)

    @property
    def tokens(self) -> int:
        return sum(prompt + sum(own) for prompt, own in self.groups) + sum(self.others)

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


def _others(groups: Sequence[tuple[int, Sequence[int]]], lengths: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    prefix, begin = 0, sum(prompt + sum(responses) for prompt, responses in groups)
    for (prompt, responses), length in zip(groups, lengths, strict=True):
        rows.append(Row(begin, length, prefix, prompt))
        prefix, begin = prefix + prompt + sum(responses), begin + length
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


def _block(rows: Sequence[Row], nowhere: int, device: torch.device) -> Block:
    i = torch.arange(max(r.queries for r in rows))[None]
    width = max(r.prefix_length for r in rows)
    starts = torch.tensor([[r.start] for r in rows])
    prefixes = torch.tensor([[r.prefix] for r in rows])
    lengths = torch.tensor([[r.prefix_length] for r in rows])
    j = torch.arange(width)[None] - (width - lengths)  # the prefix ends where the row's own begin
    real = i < torch.tensor([[r.queries] for r in rows])
    return Block(
        rows=tuple(rows),
        own=torch.where(real, starts + i, nowhere).to(device),
        prefix=torch.where(j >= 0, prefixes + j, nowhere).to(device),
        nowhere=nowhere,
    )
