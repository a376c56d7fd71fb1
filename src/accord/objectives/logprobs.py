"""Log-probabilities of given tokens without the full logits in memory.

The head's logits of R tokens over a vocabulary of V are R·V numbers, most of a model's memory.
Here the vocabulary is read in chunks: a running maximum and sum give each row's normaliser (Milakov
& Gimelshein 2018, "Online normalizer calculation for softmax"), and the backward pass recomputes
each chunk, so that the head's gradient is written once, chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 20  # logits in memory at a time on a CPU: as many as its caches hold
ROW_TILE = 2048  # rows of a chunk, so that enough columns remain for fast products
LOG2_E = 1.0 / math.log(2.0)


@dataclass(frozen=True, slots=True)
class Head:
    """A vocabulary head: logits = softcap(scale · (hidden @ weight.T + bias)).

    weight is (V, D), bias (V,) or None. `softcap` c maps x to c·tanh(x/c) (Gemma 2); None is off.
    `product` replaces hidden @ weight.T, with the same numbers and without gradient.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    product: Callable[[Tensor], Tensor] | None = None

    def logits(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """float32 logits (R, V) of hidden states (R, D), divided by the temperature."""
        if self.product is None:
            x = torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype)).float()
        else:
            x = self.product(hidden).float()
        bias = None if self.bias is None else self.bias.float()
        return self._finish_logits(x, bias, temperature)

    def _finish_logits(self, x: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
        """Bias, scale, softcap and temperature, in place."""
        if bias is not None:
            x += bias
        if self.scale != 1.0:
            x *= self.scale
        if self.softcap is not None:
            x.div_(self.softcap).tanh_().mul_(self.softcap)
        return x if temperature == 1.0 else x.div_(temperature)


def chunk_sizes(rows: int, vocabulary: int, device: torch.device) -> tuple[int, int]:
    """Rows and vocabulary entries of a chunk of logits.

    On a CPU chunks that fit into its caches are fastest. On a CUDA device launches cost more than
    memory, so a chunk takes up to a sixteenth of the free memory, in float32 and the model's
    precision together.
    """
    elements, tile = CHUNK_ELEMENTS, ROW_TILE
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        elements = min(max(free // (16 * 6), 1 << 22), 1 << 28)
        tile = 1 << 14
    tile = min(rows, tile)
    return tile, min(vocabulary, max(1, elements // tile))


class _Chunks:
    """Chunks of logits in one set of buffers: each overwrites the one before."""

    def __init__(self, hidden: Tensor, head: Head, temperature: float) -> None:
        self.hidden, self.head, self.temperature = hidden, head, temperature
        self.tile, self.width = chunk_sizes(len(hidden), len(head.weight), hidden.device)
        size = self.tile * self.width
        self.buffer = hidden.new_empty(size, dtype=torch.float32)
        # For products in the hidden states' dtype; float32 needs no second buffer.
        self.cast_buffer = self.buffer if hidden.dtype == torch.float32 else hidden.new_empty(size)

    def columns(self) -> Iterator[slice]:
        vocabulary = len(self.head.weight)
        for a in range(0, vocabulary, self.width):
            yield slice(a, min(vocabulary, a + self.width))

    def rows(self) -> Iterator[slice]:
        for a in range(0, len(self.hidden), self.tile):
            yield slice(a, min(len(self.hidden), a + self.tile))

    def weight(self, columns: slice) -> Tensor:
        return self.head.weight[columns].to(self.hidden.dtype)

    def logits(self, rows: slice, columns: slice, weight: Tensor) -> Tensor:
        """float32 logits of a chunk, in the buffer."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        x = self.buffer[: shape[0] * shape[1]].view(shape)
        if self.cast_buffer is self.buffer:
            torch.mm(self.hidden[rows], weight.T, out=x)
        else:
            product = self.cast_buffer[: x.numel()].view(shape)
            x.copy_(torch.mm(self.hidden[rows], weight.T, out=product))
        bias = None if self.head.bias is None else self.head.bias[columns].float()
        return self.head._finish_logits(x, bias, self.temperature)

    def cast_chunk(self, x: Tensor) -> Tensor:
        """A chunk in the dtype of the hidden states."""
        if self.cast_buffer is self.buffer:
            return x
        return self.cast_buffer[: x.numel()].view(x.shape).copy_(x)


def _exp(x: Tensor) -> Tensor:
    """exp in place; by powers of two, which are several times faster on a CPU."""
    return x.mul_(LOG2_E).exp2_()


def _targets_in_chunk(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """The rows whose target is in a chunk's columns, and the target's column in the chunk.

    Of targets without data, with which memory is planned, there are none.
    """
    if targets.is_meta:
        return targets[:0], targets[:0]
    rows = ((targets >= columns.start) & (targets < columns.stop)).nonzero().squeeze(1)
    return rows, targets[rows] - columns.start


def _reduce(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float, *, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normaliser, log-prob, entropy, whether the target is the mode, and log Σ p², (R,) float32.

    With z = logits − max: S = Σ e^z, T = Σ e^z·z, Q = Σ e^2z, entropy = log S − T/S and
    log Σ p² = log Q − 2·log S. A new maximum, larger by d, changes S to e^−d·S, T to
    e^−d·(T − d·S) and Q to e^−2d·Q. Without `statistics` only the first two are computed; the
    others are empty.
    """
    chunks = _Chunks(hidden, head, temperature)
    zeros = hidden.new_zeros(len(hidden), dtype=torch.float32)
    max_logit, sum_exp = zeros - torch.inf, zeros.clone()
    sum_exp_z, at_target, squares = zeros.clone(), zeros.clone(), zeros.clone()
    scratch = torch.empty_like(chunks.buffer) if statistics else chunks.buffer
    for columns in chunks.columns():
        weight = chunks.weight(columns)
        for rows in chunks.rows():
            z = chunks.logits(rows, columns, weight)
            target_rows, target_columns = _targets_in_chunk(targets[rows], columns)
            at_target[rows][target_rows] = z[target_rows, target_columns]
            new = torch.maximum(max_logit[rows], z.amax(1))
            rise = torch.where(max_logit[rows].isinf(), 0.0, new - max_logit[rows])
            shrink = torch.exp(-rise)
            z.sub_(new[:, None])
            if statistics:
                e = _exp(scratch[: z.numel()].view(z.shape).copy_(z))
                chunk_sum = z.mul_(e).sum(1)
                sum_exp_z[rows] = shrink * (sum_exp_z[rows] - rise * sum_exp[rows]) + chunk_sum
                squares[rows] = shrink.square() * squares[rows] + e.square().sum(1)
            else:
                e = _exp(z)
            sum_exp[rows] = shrink * sum_exp[rows] + e.sum(1)
            max_logit[rows] = new
    normaliser = max_logit + sum_exp.log()
    logps = at_target - normaliser
    if not statistics:
        return normaliser, logps, zeros[:0], zeros[:0], zeros[:0]
    entropy, correct = sum_exp.log() - sum_exp_z / sum_exp, (at_target >= max_logit).float()
    return normaliser, logps, entropy, correct, squares.log() - 2.0 * sum_exp.log()


class _TokenLogProbs(torch.autograd.Function):
    """logp_i = logits_i[y_i] − logsumexp(logits_i); its gradient to logits_i is onehot − p_i.

    With `entropy_learns` the entropy has a gradient too: −p·(log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        statistics: bool,
        entropy_learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = Head(weight, bias, scale, softcap)
        normaliser, logps, entropy, correct, squares = _reduce(
            hidden, head, targets, temperature, statistics=statistics
        )
        saved_entropy = entropy if entropy_learns else None
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, saved_entropy)
        ctx.scale, ctx.softcap, ctx.temperature = scale, softcap, temperature
        ctx.mark_non_differentiable(*([] if entropy_learns else [entropy]), correct, squares)
        return logps, entropy, correct, squares

    @staticmethod
    def backward(ctx: Any, grad: Tensor, entropy_grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        chunks = _Chunks(hidden, Head(weight, bias, ctx.scale, ctx.softcap), ctx.temperature)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        grad_logps = (grad * (ctx.scale / ctx.temperature))[:, None]
        if entropy is not None:
            grad_entropy = (entropy_grad * (ctx.scale / ctx.temperature))[:, None]
            scratch = torch.empty_like(chunks.buffer)
        for columns in chunks.columns():
            part = chunks.weight(columns)
            weight_sum = None
            for rows in chunks.rows():
                d = chunks.logits(rows, columns, part)
                slope = None
                if ctx.softcap is not None:  # d tanh(x) = 1 − tanh²(x)
                    slope = 1.0 - (d * (ctx.temperature / ctx.softcap)).square()
                d.sub_(normaliser[rows, None])
                if entropy is None:
                    _exp(d).mul_(-grad_logps[rows])
                else:  # dH/dlogits = −p·(log p + H)
                    c = scratch[: d.numel()].view(d.shape).copy_(d).add_(entropy[rows, None])
                    _exp(d).mul_(c.mul_(-grad_entropy[rows]).sub_(grad_logps[rows]))
                target_rows, target_columns = _targets_in_chunk(targets[rows], columns)
                d[target_rows, target_columns] += grad_logps[rows][target_rows, 0]
                if slope is not None:
                    d *= slope
                if grad_bias is not None:
                    grad_bias[columns] += d.sum(0)
                d = chunks.cast_chunk(d)
                if grad_hidden is not None:
                    grad_hidden[rows] += d @ part
                if grad_weight is not None:
                    share = d.T @ hidden[rows]
                    weight_sum = share if weight_sum is None else weight_sum.float() + share
            if grad_weight is not None:
                assert weight_sum is not None
                grad_weight[columns] = weight_sum
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            grad_weight,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *[None] * 6,
        )


def token_logps(hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(targets_i | hidden_i), float32 (R,), of hidden (R, D) and token ids (R,).

    Differentiable in hidden and in the head's weight and bias.
    """
    return _apply(hidden, head, targets, temperature, statistics=False)[0]


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Statistics of each next-token distribution, float32 (R,).

    logps: log p of the target. entropy: in nats. correct: 1.0 where the mode is the target.
    log_squares: log Σ p². Only logps has a gradient, and on request the entropy.
    """

    logps: Tensor
    entropy: Tensor
    correct: Tensor
    log_squares: Tensor


def token_stats(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    entropy_grad: bool = False,
) -> TokenStats:
    """`token_logps` with more statistics of the same pass over the vocabulary; with `entropy_grad`
    the entropy has a gradient, for an entropy bonus."""
    return TokenStats(
        *_apply(hidden, head, targets, temperature, statistics=True, entropy_learns=entropy_grad)
    )


def _apply(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    temperature: float,
    *,
    statistics: bool,
    entropy_learns: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (head.scale, head.softcap, temperature)
    return _TokenLogProbs.apply(
        hidden, head.weight, head.bias, targets, *shape, statistics, entropy_learns
    )


@torch.no_grad()
def token_kl(
    hidden: Tensor,
    head: Head,
    reference_hidden: Tensor,
    reference_head: Head,
    temperature: float = 1.0,
) -> Tensor:
    """KL(π‖π_ref) in nats at each token over the whole vocabulary, float32 (R,). No gradient.

    Summed over the tokens of a response sampled from π it is an unbiased estimate of the
    sequence KL, never negative, with less variance than the log-ratio of the sampled tokens.
    """
    out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    tile, width = chunk_sizes(len(hidden), len(head.weight), hidden.device)
    size = max(1, 4 * tile * width // len(head.weight))
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        logp = head.logits(hidden[rows], temperature).log_softmax(1)
        logq = reference_head.logits(reference_hidden[rows], temperature).log_softmax(1)
        out[rows] = (logp.exp() * (logp - logq)).sum(1)
    return out
