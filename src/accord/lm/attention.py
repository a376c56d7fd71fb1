"""Shared-prefix attention, registered with transformers so that any decoder can use it.

The linear layers of a model see a packed batch flat. Attention alone needs to know who may look
at whom: `AttentionPlan`. On a CPU a plan is carried out here block by block, with a backward pass
of its own that computes the attention weights again instead of keeping them; on a CUDA device
`accord.lm.flex` does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from accord.lm.attention_plan import AttentionPlan, Block
from accord.lm.decoding import DecodeStep, Prefill, Scores
from accord.lm.flex import flex_packed

NAME = "accord"


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
    s_aux: Tensor | None = None,
    packed: AttentionPlan | None = None,
    memory: Prefill | DecodeStep | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, T, D), key and value (1, G, T, D).

    `s_aux` (H,) are attention sinks: a logit each head may attend to that has no value (gpt-oss).
    `memory` keeps the keys and values of a packed batch of prompts, or is a step of responses that
    follow them. Without a plan (sampling from a cache) keys and mask are transformers' own.
    Dropout is never applied. Returns (1, T, H, D).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings may be float32
    scores = Scores(scale, softcap, sliding_window)
    if isinstance(memory, DecodeStep):
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        return memory.attend(module, q, k, v, scores, s_aux)[None], None
    if memory is not None:
        memory.keep(module, key[0], value[0])
    if packed is None:
        if softcap is None and s_aux is None:
            out, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, dropout=0.0, **kwargs
            )
            return out, None
        return _masked(query, key, value, attention_mask, scale, softcap, s_aux), None
    if query.is_cuda:
        out = flex_packed(
            query,
            key,
            value,
            packed,
            scale=scale,
            softcap=softcap,
            window=sliding_window,
            sinks=s_aux,
        )
        return out.transpose(1, 2), None
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    out = _PackedAttention.apply(query[0], key[0], value[0], s_aux, packed, scores)
    return out.transpose(0, 1).unsqueeze(0), None


class _PackedAttention(torch.autograd.Function):
    """q, k, v (H, T, D) to (H, T, D). With weights P = softmax(S) and dP = dO·Vᵀ,
    dS = P∘(dP − rowsum(dP∘P)); a sink takes part in the softmax, and its dP is 0."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        plan: AttentionPlan,
        scores: Scores,
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        for block in plan.blocks:
            bq, bk, bv = _own(q, block), _keys(k, block), _keys(v, block)
            parts = []
            for start, stop in block.tiles():
                seen = block.prefix_length + stop
                weights, _ = _weights(
                    bq[:, start:stop], bk[:, :seen], block, (start, stop), scores, sinks
                )
                parts.append(torch.bmm(weights, bv[:, :seen]))
            _put(out, parts[0] if len(parts) == 1 else torch.cat(parts, 1), block)
        ctx.save_for_backward(q, k, v, sinks)
        ctx.plan, ctx.scores = plan, scores
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, sinks = ctx.saved_tensors
        scores: Scores = ctx.scores
        grad = grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dsinks = None if sinks is None else torch.zeros_like(sinks, dtype=torch.float32)
        for block in ctx.plan.blocks:
            bq, bk, bv = _own(q, block), _keys(k, block), _keys(v, block)
            bg = _own(grad, block)
            if len(block.rows) > 1:  # a padded query has no output, and so no gradient
                bg = bg * _by_head(block.real_own, q.shape[0])[..., None]
            gq, gk, gv = torch.empty_like(bq), None, None
            for start, stop in reversed(list(block.tiles())):  # the last sees all keys
                seen = block.prefix_length + stop
                tile_q, tile_g, tile_k = bq[:, start:stop], bg[:, start:stop], bk[:, :seen]
                weights, slope = _weights(tile_q, tile_k, block, (start, stop), scores, sinks)
                gv = _added(gv, torch.bmm(weights.transpose(1, 2), tile_g))
                ds = torch.bmm(tile_g, bv[:, :seen].transpose(1, 2))
                if dsinks is not None and sinks is not None:
                    left = 1.0 - weights.float().sum(-1)  # the sink's weight
                    inner = (ds.float() * weights).sum(-1)
                    dsinks -= (left * inner).view(len(sinks), -1).sum(1)
                ds = torch._softmax_backward_data(ds, weights, -1, weights.dtype)
                if slope is not None:
                    ds *= slope
                gq[:, start:stop] = _scaled_bmm(ds, tile_k, scores.scale)
                gk = _added(gk, _scaled_bmm(ds.transpose(1, 2), tile_q, scores.scale))
            assert gk is not None
            assert gv is not None
            _put(dq, gq, block)
            _add_keys(dk, gk, block)
            _add_keys(dv, gv, block)
        return dq, dk, dv, None if dsinks is None else dsinks.to(sinks.dtype), None, None


def _weights(
    q: Tensor,
    k: Tensor,
    block: Block,
    tile: tuple[int, int],
    scores: Scores,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention weights (H·n, Lq, Lk) of a tile's queries, and the softcap's slope or None."""
    s = _scaled_bmm(q, k.transpose(1, 2), scores.scale)
    slope = None
    if scores.softcap is not None:
        t = torch.tanh(s / scores.softcap)
        s, slope = scores.softcap * t, 1.0 - t.square()
    masked = block.mask(*tile, scores.window)
    if masked is not None:
        first, hidden = masked
        by_row = s.view(-1, len(hidden), *s.shape[1:])[..., first:]
        by_row.masked_fill_(hidden, torch.finfo(s.dtype).min)
    if sinks is None:
        return torch.softmax(s, -1), slope
    heads = sinks.to(s.dtype).repeat_interleave(len(s) // len(sinks))[:, None, None]
    s = torch.cat([s, heads.expand(-1, s.shape[1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1].contiguous(), slope


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """The sum of what tiles give to keys; an earlier tile gives to fewer of them."""
    if total is None:
        return part
    total[:, : part.shape[1]] += part
    return total


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(n, …) to (H·n, …), head by head."""
    return x.repeat(heads, *[1] * (x.ndim - 1))


def _own(x: Tensor, block: Block) -> Tensor:
    """The rows' own tokens (H·n, Lq, D) of x (H, T, D); a view where the block is one row."""
    if len(block.rows) == 1:
        row = block.rows[0]
        return x[:, row.start : row.start + row.queries]
    return x.index_select(1, block.own.flatten()).view(-1, block.queries, x.shape[-1])


def _keys(x: Tensor, block: Block) -> Tensor:
    """The rows' prefixes and own tokens (H·n, Lp + Lq, D) of x (H, T, D)."""
    own = _own(x, block)
    if block.prefix_length == 0:
        return own
    if len(block.rows) == 1:
        row = block.rows[0]
        prefix = x[:, row.prefix : row.prefix + row.prefix_length]
    else:
        prefix = x.index_select(1, block.prefix.flatten())
        prefix = prefix.view(-1, block.prefix_length, x.shape[-1])
    return torch.cat([prefix, own], 1)


def _put(x: Tensor, values: Tensor, block: Block) -> None:
    """Write what belongs to the rows' own tokens, (H·n, Lq, D), into x (H, T, D)."""
    if len(block.rows) == 1:
        row = block.rows[0]
        x[:, row.start : row.start + row.queries] = values
        return
    by_row = values.view(len(x), *block.own.shape, -1)
    x[:, block.own[block.real_own]] = by_row[:, block.real_own]


def _add_keys(x: Tensor, values: Tensor, block: Block) -> None:
    """Add what belongs to the rows' keys, (H·n, Lp + Lq, D), to x (H, T, D)."""
    width = block.prefix_length
    by_row = values.view(len(x), len(block.rows), -1, x.shape[-1])
    for i, row in enumerate(block.rows):
        if row.prefix_length:  # rows of a block may have the same prompt, so one after another
            x[:, row.prefix : row.prefix + row.prefix_length] += by_row[
                :, i, width - row.prefix_length : width
            ]
    if len(block.rows) == 1:
        row = block.rows[0]
        x[:, row.start : row.start + row.queries] += values[:, width:]
    else:
        x[:, block.own[block.real_own]] += by_row[:, :, width:][:, block.real_own]


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Plain attention (n, Lq, H, D) of q (n, H, Lq, D), k and v (n, G, Lk, D), under
    transformers' mask; with softcap and sinks."""
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    s = q @ k.transpose(-1, -2) * scale
    if cap is not None:
        s = cap * torch.tanh(s / cap)
    if mask is None and q.shape[-2] > 1:  # transformers leaves a plain causal mask out
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        # Finite, since a padded query sees nobody, and its NaN would reach the others as 0·NaN.
        s = s.masked_fill(~mask, torch.finfo(s.dtype).min)
    elif mask is not None:
        s = s + mask
    if sinks is not None:
        s = torch.cat([s, sinks.to(s.dtype).view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    weights = s.softmax(-1, dtype=torch.float32).to(q.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return (weights @ v).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
