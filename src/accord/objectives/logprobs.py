"""Log-probabilities of given tokens without ever holding the whole logits.

The head's logits of R tokens over a vocabulary of V are R·V numbers, most of a model's memory.
Here they are made in chunks of rows, reduced, and made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 25  # logits held at a time: 128 MiB in float32


@dataclass(frozen=True, slots=True)
class Head:
    """A vocabulary head: logits = softcap(scale · (hidden @ weight.T + bias)).

    weight is (V, D), bias (V,) or None. `softcap` c maps x to c·tanh(x/c) (Gemma 2); None is off.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """float32 logits (R, V) of hidden states (R, D), divided by the temperature."""
        x = torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype)).float()
        if self.bias is not None:
            x = x + self.bias.float()
        if self.scale != 1.0:
            x = x * self.scale
        if self.softcap is not None:
            x = self.softcap * torch.tanh(x / self.softcap)
        return x if temperature == 1.0 else x / temperature


def row_chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices that cover `rows` with at most CHUNK_ELEMENTS logits each."""
    size = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


class _TokenLogProbs(torch.autograd.Function):
    """logp_i = logits_i[y_i] − logsumexp(logits_i); its gradient to logits_i is onehot − p_i."""

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
    ) -> Tensor:
        head = Head(weight, bias, scale, softcap)
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(logps)
        for rows in row_chunks(len(targets), weight.shape[0]):
            logits = head.logits(hidden[rows], temperature)
            normaliser[rows] = logits.logsumexp(1)
            logps[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normaliser[rows]
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.scale, ctx.softcap, ctx.temperature = scale, softcap, temperature
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        for rows in row_chunks(len(targets), weight.shape[0]):
            logits = head.logits(hidden[rows], ctx.temperature)
            d = torch.exp(logits - normaliser[rows, None]).neg_()
            d.scatter_add_(1, targets[rows, None], torch.ones_like(d[:, :1]))
            d *= grad[rows, None] / ctx.temperature
            if ctx.softcap is not None:  # d tanh(x) = 1 − tanh²(x)
                d *= 1.0 - (logits * ctx.temperature / ctx.softcap).square()
            if ctx.scale != 1.0:
                d *= ctx.scale
            if grad_bias is not None:
                grad_bias += d.sum(0)
            d = d.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = d @ weight.to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += (d.T @ hidden[rows]).float()
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def token_logps(hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(targets_i | hidden_i), float32 (R,), of hidden (R, D) and token ids (R,).

    Differentiable in hidden and in the head's weight and bias.
    """
    return _TokenLogProbs.apply(
        hidden, head.weight, head.bias, targets, head.scale, head.softcap, temperature
    )


@torch.no_grad()
def token_statistics(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Entropy in nats of each next-token distribution, and 1.0 where its mode is the target.

    Both float32 (R,), without gradient; for steps that are logged.
    """
    entropy = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    correct = torch.empty_like(entropy)
    for rows in row_chunks(len(hidden), head.weight.shape[0]):
        logp = head.logits(hidden[rows], temperature).log_softmax(1)
        entropy[rows] = -(logp.exp() * logp).sum(1)
        correct[rows] = (logp.argmax(1) == targets[rows]).float()
    return entropy, correct


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
    for rows in row_chunks(len(hidden), 2 * head.weight.shape[0]):
        logp = head.logits(hidden[rows], temperature).log_softmax(1)
        logq = reference_head.logits(reference_hidden[rows], temperature).log_softmax(1)
        out[rows] = (logp.exp() * (logp - logq)).sum(1)
    return out
