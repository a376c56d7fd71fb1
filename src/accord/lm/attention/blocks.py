"""Attention within a packed batch on a CPU, block by block, with a hand-written backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accord.lm.attention.plan import MASKED_SCORE, AttentionPlan, Block, ScoreOptions

DOT_ROWS = 128  # tokens whose float32 copies fit into a core's cache
EXTRA_COLUMNS = 3  # beside the head width: a number in two parts, and whether a key is padding


class BlockAttention(torch.autograd.Function):
    """q, k, v (T, H, D) to (T, H, D), in blocks, as FlashAttention does it (Dao et al. 2022).

    Forward, L = logsumexp of a query's scores S is saved. Backward, P = exp(S − L) and with
    Δ = rowsum(dO∘O), dS = P∘(dO·Vᵀ − Δ). A sink adds to L; its gradient is −exp(sink − L)·Δ.

    The matrix products subtract L and Δ themselves: queries carry −L in extra columns, keys carry
    1. So no product is rounded before the subtraction, and no matrix of scores is read again for
    it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        plan: AttentionPlan,
        options: ScoreOptions,
    ) -> Tensor:
        tokens, heads, width = q.shape
        out = q.new_empty(tokens + 1, heads, width)  # the last row receives the padding
        lse = q.new_empty(tokens + 1, heads, dtype=torch.float32)
        for block in plan.blocks:
            values, sums = _block_attention(
                _gather_queries(q, block, 0),
                _gather_keys(k, block, 0),
                _gather_keys(v, block, 0),
                block,
                options,
            )
            _scatter_queries(out, values, block)
            _scatter_queries(lse, sums, block)
        if sinks is not None:
            total = torch.logaddexp(lse, sinks.float())
            out *= (lse - total).exp()[..., None].to(out.dtype)
            lse = total
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.plan, ctx.options = plan, options
        return out[:tokens]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse, sinks = ctx.saved_tensors
        options: ScoreOptions = ctx.options
        tokens, heads, width = q.shape
        lse = lse[:tokens]
        delta = _row_dots(grad, out[:tokens])
        query, key = _extend_queries(q, lse / options.scale), _extend_keys(k)
        grad_out, value = _extend_queries(grad, delta), _extend_keys(v)
        # A padded query and a padded key have the score MASKED_SCORE with every other.
        query[:, tokens, width] = key[:, tokens, -1] = MASKED_SCORE
        dq, dk, dv = (grad.new_empty(tokens + 1, heads, width) for _ in range(3))
        for block in ctx.plan.blocks:
            bq, bk, bg, bv = (
                _gather_queries(query, block, 1).flatten(0, 1),
                _gather_keys(key, block, 1).flatten(0, 1),
                _gather_queries(grad_out, block, 1).flatten(0, 1),
                _gather_keys(value, block, 1).flatten(0, 1),
            )
            block_dq, block_dk, block_dv = bq.new_empty(*bq.shape[:2], width), None, None
            for start, stop, first in reversed(list(block.tiles(options.window))):
                # Contiguous, since a product copies any other transposed tensor element by element.
                tile_q, tile_g = (x[:, start:stop].contiguous() for x in (bq, bg))
                last = block.prefix_length + stop
                tile_k, tile_v = (x[:, first:last].contiguous() for x in (bk, bv))
                diagonal = block.prefix_length + start - first  # the last key the first query sees
                p, cap_slope = _attention_weights(tile_q, tile_k, diagonal, options)
                tile_dv = torch.bmm(p.transpose(1, 2), tile_g[..., :width])
                block_dv = _accumulate(block_dv, tile_dv, first)
                ds = torch.bmm(tile_g, tile_v.transpose(1, 2)).mul_(p)
                if cap_slope is not None:
                    ds *= cap_slope
                block_dq[:, start:stop] = _scaled_bmm(ds, tile_k[..., :width], options.scale)
                tile_dk = _scaled_bmm(ds.transpose(1, 2), tile_q[..., :width], options.scale)
                block_dk = _accumulate(block_dk, tile_dk, first)
            assert block_dk is not None
            assert block_dv is not None
            _scatter_queries(dq, block_dq.unflatten(0, (heads, -1)).transpose(0, 1), block)
            _scatter_add_keys(dk, block_dk, block)
            _scatter_add_keys(dv, block_dv, block)
        dsinks = None
        if sinks is not None:
            dsinks = -((sinks.float() - lse).exp() * delta).sum(0).to(sinks.dtype)
        return dq[:tokens], dk[:tokens], dv[:tokens], dsinks, None, None


def _block_attention(
    q: Tensor, k: Tensor, v: Tensor, block: Block, options: ScoreOptions
) -> tuple[Tensor, Tensor]:
    """The weighted values (n, H, Lq, D) and the logsumexp of the scores (n, H, Lq) of a block's
    queries (n, Lq, H, D), keys and values (n, Lp + Lq, H, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if options.softcap is None:
        causal = block.is_causal(options.window)
        bias = None if causal else block.bias(options.window, q.dtype)[:, None]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=options.scale
        )
        return out, lse
    s, _ = _softcap_with_slope(q @ k.transpose(-1, -2) * options.scale, options.softcap)
    s += block.bias(options.window, torch.float32)[:, None]
    lse = s.logsumexp(-1)
    return (s - lse[..., None]).exp().to(v.dtype) @ v, lse


def _attention_weights(
    query: Tensor, key: Tensor, diagonal: int, options: ScoreOptions
) -> tuple[Tensor, Tensor | None]:
    """Attention weights (H·n, tile, keys) of extended queries and keys, and the soft cap's slope
    or None. Query i sees the keys up to i + diagonal."""
    slope = None
    if options.softcap is None:
        p = _scaled_bmm(query, key.transpose(1, 2), options.scale).exp_()
    else:
        width = query.shape[-1] - EXTRA_COLUMNS
        raw = query[..., :width].float() @ key[..., :width].transpose(1, 2).float()
        s, slope = _softcap_with_slope(raw * options.scale, options.softcap)
        extra = query[..., width:].float() @ key[..., width:].transpose(1, 2).float()
        s += extra * options.scale
        p, slope = s.exp_().to(query.dtype), slope.to(query.dtype)
    p.tril_(diagonal)
    if options.window is not None:
        p.triu_(diagonal - options.window + 1)
    return p, slope


def _softcap_with_slope(s: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """c·tanh(s/c) and its derivative, in float32."""
    t = torch.tanh(s.float() / cap)
    return cap * t, 1.0 - t.square()


def _extend_queries(x: Tensor, number: Tensor) -> Tensor:
    """(H, T + 1, D + 3) of x (T, H, D): x, then minus a number (T, H) as the sum of two of x's
    type, then 1; zeros in the last row."""
    tokens, heads, width = x.shape
    out = x.new_empty(heads, tokens + 1, width + EXTRA_COLUMNS)
    high = -number.T.to(x.dtype)
    out[:, :tokens, :width] = x.transpose(0, 1)
    out[:, :tokens, width], out[:, :tokens, width + 1] = high, -number.T - high
    out[:, tokens] = 0.0
    out[..., -1] = 1.0
    return out


def _extend_keys(x: Tensor) -> Tensor:
    """(H, T + 1, D + 3) of x (T, H, D), for products with what `_extend_queries` returns."""
    tokens, heads, width = x.shape
    out = x.new_empty(heads, tokens + 1, width + EXTRA_COLUMNS)
    out[:, :tokens, :width] = x.transpose(0, 1)
    out[..., width:-1] = 1.0
    out[..., -1] = 0.0
    out[:, tokens] = 0.0
    return out


def _row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Sums of a∘b over the last dimension, in float32; a few rows at a time, so that their copies
    stay in the cache."""
    rows = zip(a.split(DOT_ROWS), b.split(DOT_ROWS), strict=True)
    return torch.cat([(x.float() * y.float()).sum(-1) for x, y in rows])


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _accumulate(total: Tensor | None, part: Tensor, first: int) -> Tensor:
    """Adds a tile's gradient of the keys from `first` on. The last tile comes first, and it sees
    the last key, so its length is that of the total."""
    if total is None:
        total = part if first == 0 else nn.functional.pad(part, (0, 0, first, 0))
    else:
        total[:, first : first + part.shape[1]] += part
    return total


def _gather_queries(x: Tensor, block: Block, dim: int) -> Tensor:
    """The block's query tokens: dimension `dim` (T or T + 1) of x becomes (n, Lq). A view where the
    block is one row. Padding reads the last token of x, which is zeros where that matters."""
    if len(block.rows) == 1:
        row = block.rows[0]
        return x.narrow(dim, row.start, row.num_queries).unsqueeze(dim)
    return _gather(x, block.query_index, dim)


def _gather_keys(x: Tensor, block: Block, dim: int) -> Tensor:
    """The block's prefix and query tokens: dimension `dim` of x becomes (n, Lp + Lq)."""
    if block.prefix_length == 0:
        return _gather_queries(x, block, dim)
    if len(block.rows) == 1:
        row = block.rows[0]
        prefix = x.narrow(dim, row.prefix_start, row.prefix_length).unsqueeze(dim)
        return torch.cat([prefix, _gather_queries(x, block, dim)], dim + 1)
    return _gather(x, torch.cat([block.prefix_index, block.query_index], 1), dim)


def _gather(x: Tensor, index: Tensor, dim: int) -> Tensor:
    index = index.clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, index.flatten()).unflatten(dim, index.shape)


def _scatter_queries(x: Tensor, values: Tensor, block: Block) -> None:
    """Write the values of the block's query tokens, (n, H, Lq, …), into x (T + 1, H, …)."""
    values = values.transpose(1, 2)
    if len(block.rows) == 1:
        row = block.rows[0]
        x[row.start : row.start + row.num_queries] = values[0]
    else:
        x.index_copy_(0, block.query_index.flatten(), values.flatten(0, 1))


def _scatter_add_keys(x: Tensor, values: Tensor, block: Block) -> None:
    """Put the values of the block's keys, (H·n, Lp + Lq, D), into x (T + 1, H, D).

    Those of query tokens are written; those of prefixes are added, since other rows share them.
    """
    width = block.prefix_length
    by_row = values.unflatten(0, (-1, len(block.rows))).transpose(0, 1)
    _scatter_queries(x, by_row[:, :, width:], block)
    for row_values, row in zip(by_row, block.rows, strict=True):
        if row.prefix_length:  # one by one, since rows of a block may have the same prompt
            shared = x[row.prefix_start : row.prefix_start + row.prefix_length]
            shared += row_values[:, width - row.prefix_length : width].transpose(0, 1)
