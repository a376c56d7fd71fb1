"""Attention within a packed batch on a CPU, block by block, with a backward pass of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accord.lm.attention.plan import AttentionPlan, Block, Scores


class BlockAttention(torch.autograd.Function):
    """q, k, v (T, H, D) to (T, H, D), in blocks, as FlashAttention does it (Dao et al. 2022).

    Forward, L = logsumexp of a query's scores S is kept. Backward, P = exp(S − L) and with
    Δ = rowsum(dO∘O), dS = P∘(dO·Vᵀ − Δ). A sink adds to L; its own dS is −exp(sink − L)·Δ.

    Subtracting L and Δ is left to the matrix products: queries carry −L, keys carry 1. So no
    product is rounded before it is taken off, and no matrix of scores is gone through for it.
    """

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
        tokens, heads, width = q.shape
        out = q.new_empty(tokens + 1, heads, width)  # the last is where padding goes
        lse = q.new_empty(tokens + 1, heads, dtype=torch.float32)
        for block in plan.blocks:
            values, sums = _attended(
                _own(q, block, 0), _keys(k, block, 0), _keys(v, block, 0), block, scores
            )
            _put(out, values, block)
            _put(lse, sums, block)
        if sinks is not None:
            total = torch.logaddexp(lse, sinks.float())
            out *= (lse - total).exp()[..., None].to(out.dtype)
            lse = total
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.plan, ctx.scores = plan, scores
        return out[:tokens]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse, sinks = ctx.saved_tensors
        scores: Scores = ctx.scores
        tokens, heads, width = q.shape
        lse = lse[:tokens]
        delta = _inner(grad, out[:tokens])
        query, key = _carrying(q, lse / scores.scale), _carried(k)
        slope, value = _carrying(grad, delta), _carried(v)
        query[:, tokens, width] = key[:, tokens, -1] = HIDDEN  # padding sees and shows nothing
        dq, dk, dv = (grad.new_empty(tokens + 1, heads, width) for _ in range(3))
        for block in ctx.plan.blocks:
            bq, bk, bg, bv = (
                _own(query, block, 1).flatten(0, 1),
                _keys(key, block, 1).flatten(0, 1),
                _own(slope, block, 1).flatten(0, 1),
                _keys(value, block, 1).flatten(0, 1),
            )
            of_q, of_k, of_v = bq.new_empty(*bq.shape[:2], width), None, None
            for start, stop, first in reversed(list(block.tiles(scores.window))):
                # Contiguous, since a product would copy any other transposed, element by element.
                tile_q, tile_g = (x[:, start:stop].contiguous() for x in (bq, bg))
                last = block.prefix_length + stop
                tile_k, tile_v = (x[:, first:last].contiguous() for x in (bk, bv))
                diagonal = block.prefix_length + start - first  # the last key the first query sees
                p, bend = _weights(tile_q, tile_k, diagonal, scores)
                of_v = _added(of_v, torch.bmm(p.transpose(1, 2), tile_g[..., :width]), first)
                ds = torch.bmm(tile_g, tile_v.transpose(1, 2)).mul_(p)
                if bend is not None:
                    ds *= bend
                of_q[:, start:stop] = _scaled_bmm(ds, tile_k[..., :width], scores.scale)
                share = _scaled_bmm(ds.transpose(1, 2), tile_q[..., :width], scores.scale)
                of_k = _added(of_k, share, first)
            assert of_k is not None
            assert of_v is not None
            _put(dq, of_q.unflatten(0, (heads, -1)).transpose(0, 1), block)
            _put_keys(dk, of_k, block)
            _put_keys(dv, of_v, block)
        dsinks = None
        if sinks is not None:
            dsinks = -((sinks.float() - lse).exp() * delta).sum(0).to(sinks.dtype)
        return dq[:tokens], dk[:tokens], dv[:tokens], dsinks, None, None


HIDDEN = -1e30  # a score whose exponential is 0
CACHED_ROWS = 128  # tokens of float32 copies that stay in a core's cache


def _attended(
    q: Tensor, k: Tensor, v: Tensor, block: Block, scores: Scores
) -> tuple[Tensor, Tensor]:
    """Of a block's queries (n, Lq, H, D) and its keys and values (n, Lp + Lq, H, D): the weighted
    values (n, H, Lq, D) and the logsumexp of the scores (n, H, Lq)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if scores.softcap is None:
        causal = block.is_causal(scores.window)
        bias = None if causal else block.bias(scores.window, q.dtype)[:, None]
        found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scores.scale
        )
        return found
    s, _ = _capped(q @ k.transpose(-1, -2) * scores.scale, scores.softcap)
    s += block.bias(scores.window, torch.float32)[:, None]
    lse = s.logsumexp(-1)
    return (s - lse[..., None]).exp().to(v.dtype) @ v, lse


def _weights(
    query: Tensor, key: Tensor, diagonal: int, scores: Scores
) -> tuple[Tensor, Tensor | None]:
    """Attention weights (H·n, tile, keys) of what queries and keys carry, and the softcap's slope
    or None. Query i sees the keys up to i + diagonal."""
    slope = None
    if scores.softcap is None:
        p = _scaled_bmm(query, key.transpose(1, 2), scores.scale).exp_()
    else:
        width = query.shape[-1] - CARRIED
        raw = query[..., :width].float() @ key[..., :width].transpose(1, 2).float()
        s, slope = _capped(raw * scores.scale, scores.softcap)
        carried = query[..., width:].float() @ key[..., width:].transpose(1, 2).float()
        s += carried * scores.scale
        p, slope = s.exp_().to(query.dtype), slope.to(query.dtype)
    p.tril_(diagonal)
    if scores.window is not None:
        p.triu_(diagonal - scores.window + 1)
    return p, slope


def _capped(s: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """c·tanh(s/c) and its derivative, in float32."""
    t = torch.tanh(s.float() / cap)
    return cap * t, 1.0 - t.square()


CARRIED = 3  # columns beside the width: a number in two parts, and whether a key is padding


def _carrying(x: Tensor, number: Tensor) -> Tensor:
    """(H, T + 1, D + 3) of x (T, H, D): x, minus a number (T, H) as the sum of two of x's type,
    and 1; zeros in the last row."""
    tokens, heads, width = x.shape
    out = x.new_empty(heads, tokens + 1, width + CARRIED)
    high = -number.T.to(x.dtype)
    out[:, :tokens, :width] = x.transpose(0, 1)
    out[:, :tokens, width], out[:, :tokens, width + 1] = high, -number.T - high
    out[:, tokens] = 0.0
    out[..., -1] = 1.0
    return out


def _carried(x: Tensor) -> Tensor:
    """(H, T + 1, D + 3) of x (T, H, D): what meets that of `_carrying`."""
    tokens, heads, width = x.shape
    out = x.new_empty(heads, tokens + 1, width + CARRIED)
    out[:, :tokens, :width] = x.transpose(0, 1)
    out[..., width:-1] = 1.0
    out[..., -1] = 0.0
    out[:, tokens] = 0.0
    return out


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sums over the last dimension of a∘b, in float32; a few rows at once stay in the cache."""
    rows = zip(a.split(CACHED_ROWS), b.split(CACHED_ROWS), strict=True)
    return torch.cat([(x.float() * y.float()).sum(-1) for x, y in rows])


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _added(total: Tensor | None, part: Tensor, first: int) -> Tensor:
    """The sum of what tiles give to keys; the last comes first and sees the last key."""
    if total is None:
        total = part if first == 0 else nn.functional.pad(part, (0, 0, first, 0))
    else:
        total[:, first : first + part.shape[1]] += part
    return total


def _own(x: Tensor, block: Block, dim: int) -> Tensor:
    """The rows' own tokens, (…, n, Lq, …) in the place of dimension `dim` (T or T + 1) of x; a
    view where the block is one row. Padding is the last of x, which is zeros where it matters."""
    if len(block.rows) == 1:
        row = block.rows[0]
        return x.narrow(dim, row.start, row.queries).unsqueeze(dim)
    return _taken(x, block.own, dim)


def _keys(x: Tensor, block: Block, dim: int) -> Tensor:
    """The rows' prefixes and own tokens, (…, n, Lp + Lq, …) in the place of dimension `dim`."""
    if block.prefix_length == 0:
        return _own(x, block, dim)
    if len(block.rows) == 1:
        row = block.rows[0]
        prefix = x.narrow(dim, row.prefix, row.prefix_length).unsqueeze(dim)
        return torch.cat([prefix, _own(x, block, dim)], dim + 1)
    return _taken(x, torch.cat([block.prefix, block.own], 1), dim)


def _taken(x: Tensor, index: Tensor, dim: int) -> Tensor:
    index = index.clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, index.flatten()).unflatten(dim, index.shape)


def _put(x: Tensor, values: Tensor, block: Block) -> None:
    """Write what belongs to the rows' own tokens, (n, H, Lq, …), into x (T + 1, H, …)."""
    values = values.transpose(1, 2)
    if len(block.rows) == 1:
        row = block.rows[0]
        x[row.start : row.start + row.queries] = values[0]
    else:
        x.index_copy_(0, block.own.flatten(), values.flatten(0, 1))


def _put_keys(x: Tensor, values: Tensor, block: Block) -> None:
    """Give x (T + 1, H, D) what belongs to the rows' keys, (H·n, Lp + Lq, D): their own tokens
    are written, to their prefixes it is added, since other rows have a share in them."""
    width = block.prefix_length
    by_row = values.unflatten(0, (-1, len(block.rows))).transpose(0, 1)
    _put(x, by_row[:, :, width:], block)
    for own, row in zip(by_row, block.rows, strict=True):
        if row.prefix_length:  # rows of a block may have the same prompt, so one after another
            shared = x[row.prefix : row.prefix + row.prefix_length]
            shared += own[:, width - row.prefix_length : width].transpose(0, 1)
