"""Which tokens of a packed batch attend to which, laid out as rows and blocks of rows.

A group's prompt with its first response is one causal row. Each further response is another row,
whose queries are its tokens and whose keys are the prompt and itself. A long row is a block by
itself and is read without a copy; short rows of similar shape are gathered into padded blocks, so
that a batch with many short rows takes few kernel calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

MASKED_SCORE = -1e30  # of a masked key: its exponential is 0; finite, so that no score is NaN

LONG_ROW = 100  # queries from which a row is a block by itself
MAX_BLOCK_CELLS = 1 << 20  # query-key cells in a padded block
MIN_BLOCK_FILL = 0.7  # share of a block's cells that are not padding
QUERY_TILE = 192  # queries of a tile of the backward pass, which skips the keys after its last


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How a model turns queries and keys into attention weights.

    weights = softmax over keys (and the sink, if any) of cap(scale · q·k), where cap(x) is
    c·tanh(x/c) for a soft cap c (Gemma 2) and x itself without. With a sliding `window` w a query
    sees the last w keys, its own among them.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class QueryRow:
    """Queries [start, start + num_queries) of the flat tokens, which follow the prefix.

    Their keys are the `prefix_length` tokens from flat index `prefix_start` on, and themselves.
    """

    start: int
    num_queries: int
    prefix_start: int = 0
    prefix_length: int = 0

    @property
    def num_keys(self) -> int:
        return self.prefix_length + self.num_queries

    @property
    def num_cells(self) -> int:
        return self.num_queries * self.num_keys


@dataclass(frozen=True)
class Block:
    """n rows computed in one call: a single row without padding, or several with queries padded at
    their end and prefixes padded at their start, so that the queries of all rows begin at the same
    key.

    query_index (n, Lq) and prefix_index (n, Lp) are flat token indices, `pad_index` where padded.
    """

    rows: tuple[QueryRow, ...]
    query_index: Tensor
    prefix_index: Tensor
    pad_index: int
    bias_cache: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        return self.query_index.shape[1]

    @property
    def prefix_length(self) -> int:
        return self.prefix_index.shape[1]

    def is_causal(self, window: int | None) -> bool:
        """Whether the mask is the plain causal one: query i sees exactly the keys 0 to i."""
        return self.prefix_length == 0 and (window is None or self.num_queries <= window)

    def tiles(self, window: int | None) -> Iterator[tuple[int, int, int]]:
        """Ranges of queries [start, stop), which see no key after prefix + stop, and the first
        key that any of them sees."""
        for start in range(0, self.num_queries, QUERY_TILE):
            first = 0 if window is None else max(0, self.prefix_length + start - window + 1)
            yield start, min(start + QUERY_TILE, self.num_queries), first

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive mask (n or 1, Lq, Lp + Lq): 0 where a key is seen, else −∞."""
        if (window, dtype) not in self.bias_cache:
            device, p = self.query_index.device, self.prefix_length
            q = torch.arange(p, p + self.num_queries, device=device)[:, None]
            k = torch.arange(p + self.num_queries, device=device)[None, :]
            masked = (k > q)[None]
            if window is not None:
                masked = masked | (k <= q - window)[None]
            if any(row.prefix_length < p for row in self.rows):
                padding = torch.zeros(len(self.rows), k.shape[1], dtype=torch.bool, device=device)
                padding[:, :p] = self.prefix_index == self.pad_index
                masked = masked | padding[:, None]
            zeros = torch.zeros(masked.shape, dtype=dtype, device=device)
            self.bias_cache[window, dtype] = zeros.masked_fill_(masked, -torch.inf)
        return self.bias_cache[window, dtype]


@dataclass(frozen=True)
class AttentionPlan:
    """A batch's groups, packed flat, each as (prompt length, response lengths).

    `extra_responses` are the lengths of one further response to each prompt, whose tokens come
    after all others. With them only their tokens are queries: the keys and values of all tokens
    before come from an earlier pass (`attention.reuse`).
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    device: torch.device
    extra_responses: tuple[int, ...] = ()
    block_masks: dict[int | None, Any] = field(default_factory=dict)  # FlexAttention's, by window

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rows of all groups, the short ones in blocks. Rows that contain a prompt come before
        those that only see it."""
        rows = (
            _extra_response_rows(self.groups, self.extra_responses)
            if self.extra_responses
            else _group_rows(self.groups)
        )
        short = [r for r in rows if r.num_queries < LONG_ROW]
        short.sort(key=lambda r: (r.prefix_length > 0, r.num_keys, r.num_queries, r.start))
        blocks = [[r] for r in rows if r.num_queries >= LONG_ROW] + _batch_similar_rows(short)
        blocks.sort(key=lambda rows: rows[0].prefix_length > 0)
        return tuple(_build_block(b, self.num_tokens, self.device) for b in blocks)

    @property
    def num_tokens(self) -> int:
        packed = sum(prompt + sum(responses) for prompt, responses in self.groups)
        return packed + sum(self.extra_responses)

    def token_coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each flat token's group, response (−1 in a prompt) and position, all (T,)."""
        group: list[int] = []
        response: list[int] = []
        position: list[int] = []
        for number, (prompt, responses) in enumerate(self.groups):
            group += [number] * (prompt + sum(responses))
            response += [-1] * prompt
            position += range(prompt)
            for k, length in enumerate(responses):
                response += [k] * length
                position += range(prompt, prompt + length)
        return torch.tensor(group), torch.tensor(response), torch.tensor(position)


def _group_rows(groups: Sequence[tuple[int, Sequence[int]]]) -> list[QueryRow]:
    rows: list[QueryRow] = []
    start = 0
    for prompt, responses in groups:
        rows.append(QueryRow(start, prompt + responses[0]))
        begin = start + prompt + responses[0]
        for length in responses[1:]:
            rows.append(QueryRow(begin, length, start, prompt))
            begin += length
        start = begin
    return rows


def _extra_response_rows(
    groups: Sequence[tuple[int, Sequence[int]]], lengths: Sequence[int]
) -> list[QueryRow]:
    rows: list[QueryRow] = []
    prefix, begin = 0, sum(prompt + sum(responses) for prompt, responses in groups)
    for (prompt, responses), length in zip(groups, lengths, strict=True):
        rows.append(QueryRow(begin, length, prefix, prompt))
        prefix, begin = prefix + prompt + sum(responses), begin + length
    return rows


def _batch_similar_rows(rows: Sequence[QueryRow]) -> list[list[QueryRow]]:
    """Rows, sorted by keys, in blocks with little padding and a limited number of cells."""
    blocks: list[list[QueryRow]] = []
    current: list[QueryRow] = []
    real_cells = queries = prefix = 0
    for row in rows:
        wider, longer = max(queries, row.num_queries), max(prefix, row.prefix_length)
        cells = (len(current) + 1) * wider * (wider + longer)
        same_kind = not current or (current[0].prefix_length > 0) == (row.prefix_length > 0)
        filled = real_cells + row.num_cells
        if current and (
            not same_kind or cells > MAX_BLOCK_CELLS or filled < MIN_BLOCK_FILL * cells
        ):
            blocks.append(current)
            current, filled = [], row.num_cells
            wider, longer = row.num_queries, row.prefix_length
        current.append(row)
        queries, prefix, real_cells = wider, longer, filled
    return [*blocks, current] if current else blocks


def _build_block(rows: Sequence[QueryRow], pad_index: int, device: torch.device) -> Block:
    i = torch.arange(max(r.num_queries for r in rows))[None]
    width = max(r.prefix_length for r in rows)
    starts = torch.tensor([[r.start] for r in rows])
    prefixes = torch.tensor([[r.prefix_start] for r in rows])
    lengths = torch.tensor([[r.prefix_length] for r in rows])
    j = torch.arange(width)[None] - (width - lengths)  # a prefix ends where its row's queries begin
    is_query = i < torch.tensor([[r.num_queries] for r in rows])
    return Block(
        rows=tuple(rows),
        query_index=torch.where(is_query, starts + i, pad_index).to(device),
        prefix_index=torch.where(j >= 0, prefixes + j, pad_index).to(device),
        pad_index=pad_index,
    )
