"""Shared-prefix attention, registered with transformers so that any decoder can use it.

The linear layers of a model see a packed batch flat. Attention alone needs to know who may look
at whom, and works on rows: a group's prompt with its first response is one causal row; each
further response is a row of its own, whose queries are its tokens and whose keys are the prompt
and itself. Rows of like shape are padded to blocks, and each block is one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

NAME = "accord"
BLOCK_CELLS = 1 << 22  # query-key cells in a block
BLOCK_FILL = 0.6  # a block is closed when less of it than this would be real cells


@dataclass(frozen=True)
class Block:
    """n rows of attention: indices into the flat tokens, and which cells are real.

    queries (n, Lq) and keys (n, Lk), padded with index 0; query_positions, key_positions the
    same shapes; real_queries (n, Lq) and real_keys (n, Lk) bools.
    """

    queries: Tensor
    keys: Tensor
    query_positions: Tensor
    key_positions: Tensor
    real_queries: Tensor
    real_keys: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """(n, 1, Lq, Lk) bools: causal, within the window, real keys only; never an empty row."""
        if window not in self.masks:
            q, k = self.query_positions[:, :, None], self.key_positions[:, None, :]
            allowed = (k <= q) & self.real_keys[:, None, :]
            if window is not None:
                allowed &= k > q - window
            allowed |= ~self.real_queries[:, :, None]  # a padded query looks anywhere
            self.masks[window] = allowed[:, None]
        return self.masks[window]


@dataclass(frozen=True)
class AttentionPlan:
    """The blocks of a batch, and `order` (T,): where each flat token's output is found."""

    blocks: tuple[Block, ...]
    order: Tensor


@dataclass(frozen=True, slots=True)
class _Row:
    start: int  # flat index and position of the first query
    position: int
    queries: int
    prefix: int  # flat index of the prompt, whose tokens are keys before the queries
    prefix_length: int

    @property
    def keys(self) -> int:
        return self.prefix_length + self.queries


def plan_attention(
    groups: Sequence[tuple[int, Sequence[int]]], device: torch.device
) -> AttentionPlan:
    """Plan the attention of packed groups, each (prompt length, response lengths)."""
    rows: list[_Row] = []
    start = 0
    for prompt, responses in groups:
        rows.append(_Row(start, 0, prompt + responses[0], start, 0))
        begin = start + prompt + responses[0]
        for length in responses[1:]:
            rows.append(_Row(begin, prompt, length, start, prompt))
            begin += length
        start = begin
    rows.sort(key=lambda r: (r.prefix_length > 0, r.keys, r.queries, r.start))
    blocks: list[Block] = []
    produced: list[Tensor] = []
    for members in _alike(rows):
        block = _block(members)
        blocks.append(block)
        produced.append(block.queries[block.real_queries])
    order = torch.empty(start, dtype=torch.long)
    order[torch.cat(produced)] = torch.arange(start)
    return AttentionPlan(tuple(_to(b, device) for b in blocks), order.to(device))


def _alike(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows, sorted by keys, in blocks that are mostly real cells and not too large."""
    blocks: list[list[_Row]] = []
    current: list[_Row] = []
    real = queries = 0
    for row in rows:
        cells = (len(current) + 1) * max(queries, row.queries) * row.keys
        filled = real + row.queries * row.keys
        same_kind = not current or (current[0].prefix_length > 0) == (row.prefix_length > 0)
        if current and (not same_kind or cells > BLOCK_CELLS or filled < BLOCK_FILL * cells):
            blocks.append(current)
            current, queries, filled = [], 0, row.queries * row.keys
        current.append(row)
        queries, real = max(queries, row.queries), filled
    blocks.append(current)
    return blocks


def _block(rows: Sequence[_Row]) -> Block:
    lq, lk = max(r.queries for r in rows), max(r.keys for r in rows)
    i, j = torch.arange(lq)[None, :], torch.arange(lk)[None, :]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(r, name) for r in rows])[:, None]

    start, position, prefix = column("start"), column("position"), column("prefix")
    prefix_length = column("prefix_length")
    real_q, real_k = i < column("queries"), j < column("keys")
    keys = torch.where(j < prefix_length, prefix + j, start + j - prefix_length)
    return Block(
        queries=torch.where(real_q, start + i, 0),
        keys=torch.where(real_k, keys, 0),
        query_positions=position + i,
        key_positions=j.expand(len(rows), -1),  # a row's keys are the sequence from its start
        real_queries=real_q,
        real_keys=real_k,
    )


def _to(block: Block, device: torch.device) -> Block:
    return Block(
        block.queries.to(device),
        block.keys.to(device),
        block.query_positions.to(device),
        block.key_positions.to(device),
        block.real_queries.to(device),
        block.real_keys.to(device),
    )


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, T, D), key and value (1, G, T, D).

    Without a plan (sampling from a cache) it is transformers' own SDPA. Dropout is never applied.
    Raises NotImplementedError for what it does not know, such as attention sinks.
    """
    if packed is None:
        if softcap is not None:
            return _capped(query, key, value, attention_mask, scaling, softcap), None
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=0.0, **kwargs
        )
        return out, None
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")  # the caller falls back to plain rows
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H, D)
    outputs = []
    for block in packed.blocks:
        o = _capped(
            q[block.queries].transpose(1, 2),
            k[block.keys].transpose(1, 2),
            v[block.keys].transpose(1, 2),
            block.mask(sliding_window),
            scaling,
            softcap,
        )
        outputs.append(o[block.real_queries])
    return torch.cat(outputs)[packed.order].unsqueeze(0), None


def _capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, cap: float | None
) -> Tensor:
    """Attention (n, Lq, H, D) of q (n, H, Lq, D), k and v (n, G, Lk, D); scores soft-capped."""
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    if cap is None:
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        return out.transpose(1, 2)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = cap * torch.tanh(scores / cap)
    if mask is None and q.shape[-2] > 1:  # transformers leaves a plain causal mask out
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        # Finite, since a padded query sees nobody, and its NaN would reach the others as 0·NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (weights @ v).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
