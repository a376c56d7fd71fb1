"""Log-probabilities of given tokens without ever holding the whole logits.

The head's logits of R tokens over a vocabulary of V are R·V numbers, most of a model's memory.
Here the vocabulary is read in chunks: a running maximum and sum give each row's normaliser (Milakov
& Gimelshein 2018, "Online normalizer calculation for softmax"), and the backward pass makes each
chunk again, so that the head's gradient is written once, chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 20  # logits held at a time on a CPU: what its caches take
ROW_TILE = 2048  # rows of a chunk, so that it keeps enough columns for fast products
LOG2_E = 1.0 / math.log(2.0)


@dataclass(frozen=True, slots=True)
class Head:
    """A vocabulary head: logits = softcap(scale · (hidden @ weight.T + bias)).

    weight is (V, D), bias (V,) or None. `softcap` c maps x to c·tanh(x/c) (Gemma 2); None is off.
    `product` computes hidden @ weight.T another way, with the same numbers and without gradient.
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
        return self._shaped(x, bias, temperature)

    def _shaped(self, x: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
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

    On a CPU what its caches hold is fastest. On a CUDA device launches cost more than memory, so a
    chunk takes up to a sixteenth of what is free, in float32 and the model's own precision.
    """
    elements, tile = CHUNK_ELEMENTS, ROW_TILE
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        elements = min(max(free // (16 * 6), 1 << 22), 1 << 28)
        tile = 1 << 14
    tile = min(rows, tile)
    return tile, min(vocabulary, max(1, elements // tile))


class _Chunks:
    """Chunks of logits in one set of buffers: each is overwritten by the next."""

    def __init__(self, hidden: Tensor, head: Head, temperature: float) -> None:
        self.hidden, self.head, self.temperature = hidden, head, temperature
        self.tile, self.width = chunk_sizes(len(hidden), len(head.weight), hidden.device)
        size = self.tile * self.width
        self.buffer = hidden.new_empty(size, dtype=torch.float32)
        self.own = self.buffer if hidden.dtype == torch.float32 else hidden.new_empty(size)

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
        if self.own is self.buffer:
            torch.mm(self.hidden[rows], weight.T, out=x)
        else:
            own = self.own[: x.numel()].view(shape)
            x.copy_(torch.mm(self.hidden[rows], weight.T, out=own))
        bias = None if self.head.bias is None else self.head.bias[columns].float()
        return self.head._shaped(x, bias, self.temperature)

    def half(self, x: Tensor) -> Tensor:
        """A chunk in the hidden states' own precision."""
        if self.own is self.buffer:
            return x
        return self.own[: x.numel()].view(x.shape).copy_(x)


def _exp(x: Tensor) -> Tensor:
    """exp in place; by powers of two, which are several times faster on a CPU."""
    return x.mul_(LOG2_E).exp2_()


def _inside(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which rows' targets lie in a chunk's columns, and where in it."""
    rows = ((targets >= columns.start) & (targets < columns.stop)).nonzero().squeeze(1)
    return rows, targets[rows] - columns.start


def _reduce(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float, *, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normaliser, log-prob, entropy, whether the target is the mode, and log Σ p², (R,) float32.

    With z = logits − max: S = Σ e^z, T = Σ e^z·z, Q = Σ e^2z, entropy = log S − T/S and
    log Σ p² = log Q − 2·log S. A new maximum, larger by d, makes S into e^−d·S, T into
    e^−d·(T − d·S) and Q into e^−2d·Q. What follows the log-prob is empty if not asked for.
    """
    chunks = _Chunks(hidden, head, temperature)
    zeros = hidden.new_zeros(len(hidden), dtype=torch.float32)
    peak, mass = zeros - torch.inf, zeros.clone()
    moment, at_target, squares = zeros.clone(), zeros.clone(), zeros.clone()
    scratch = torch.empty_like(chunks.buffer) if statistics else chunks.buffer
    for columns in chunks.columns():
        weight = chunks.weight(columns)
        for rows in chunks.rows():
            z = chunks.logits(rows, columns, weight)
            found, where = _inside(targets[rows], columns)
            at_target[rows][found] = z[found, where]
            new = torch.maximum(peak[rows], z.amax(1))
            rise = torch.where(peak[rows].isinf(), 0.0, new - peak[rows])
            shrink = torch.exp(-rise)
            z.sub_(new[:, None])
            if statistics:
                e = _exp(scratch[: z.numel()].view(z.shape).copy_(z))
                moment[rows] = shrink * (moment[rows] - rise * mass[rows]) + z.mul_(e).sum(1)
                squares[rows] = shrink.square() * squares[rows] + e.square().sum(1)
            else:
                e = _exp(z)
            mass[rows] = shrink * mass[rows] + e.sum(1)
            peak[rows] = new
    normaliser = peak + mass.log()
    logps = at_target - normaliser
    if not statistics:
        return normaliser, logps, zeros[:0], zeros[:0], zeros[:0]
    entropy, correct = mass.log() - moment / mass, (at_target >= peak).float()
    return normaliser, logps, entropy, correct, squares.log() - 2.0 * mass.log()


class _TokenLogProbs(torch.autograd.Function):
    """logp_i = logits_i[y_i] − logsumexp(logits_i); its gradient to logits_i is onehot − p_i.

    The entropy's, where it is learned from, is −p·(log p + H).
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
        kept = entropy if entropy_learns else None
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, kept)
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
        above = (grad * (ctx.scale / ctx.temperature))[:, None]
        if entropy is not None:
            above_entropy = (entropy_grad * (ctx.scale / ctx.temperature))[:, None]
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
                    _exp(d).mul_(-above[rows])
                else:  # dH/dlogits = −p·(log p + H)
                    c = scratch[: d.numel()].view(d.shape).copy_(d).add_(entropy[rows, None])
                    _exp(d).mul_(c.mul_(-above_entropy[rows]).sub_(above[rows]))
                found, where = _inside(targets[rows], columns)
                d[found, where] += above[rows][found, 0]
                if slope is not None:
                    d *= slope
                if grad_bias is not None:
                    grad_bias[columns] += d.sum(0)
                d = chunks.half(d)
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


def token_logps_and_statistics(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """`token_logps`, and without gradient each next-token distribution's entropy in nats and 1.0
    where its mode is the target, all float32 (R,); for steps that are logged."""
    return _apply(hidden, head, targets, temperature, statistics=True)[:3]


def token_logps_and_log_squares(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logps`, and without gradient each next-token distribution's log Σ p², float32 (R,)."""
    logps, _, _, squares = _apply(hidden, head, targets, temperature, statistics=True)
    return logps, squares


def token_logps_and_entropy(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logps` and the entropies, both with gradient, float32 (R,); for an entropy bonus."""
    return _apply(hidden, head, targets, temperature, statistics=True, entropy_learns=True)[:2]


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
