"""Shared by the tests of pair losses: a loss and its derivatives at one pair in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor], Tensor]


def value_and_derivatives(
    loss: PairLoss, chosen: float, rejected: float
) -> tuple[float, float, float]:
    """A loss in float64 at one pair, and its derivatives with respect to chosen and rejected."""
    pair = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected)]
    value = loss(*pair)
    value.backward()
    derivatives = [0.0 if x.grad is None else float(x.grad) for x in pair]
    return float(value.detach()), derivatives[0], derivatives[1]


def assert_gradient_is_of_value(loss: PairLoss, *, shift: float = 0.0) -> None:
    """Compare autograd's derivatives with finite differences at eight random pairs."""
    generator = torch.Generator().manual_seed(1)
    chosen, rejected = (
        (3 * torch.randn(8, dtype=torch.float64, generator=generator) + shift).requires_grad_()
        for _ in range(2)
    )
    assert loss(chosen, rejected).shape == (8,)
    assert torch.autograd.gradcheck(loss, (chosen, rejected))


def assert_finite_at(loss: PairLoss, extremes: list[float], dtype: torch.dtype) -> None:
    """The loss and its derivatives are finite at every pair of the extremes."""
    points = torch.tensor(extremes, dtype=dtype)
    chosen = points.repeat_interleave(len(extremes)).requires_grad_()
    rejected = points.repeat(len(extremes)).requires_grad_()
    values = loss(chosen, rejected)
    values.sum().backward()
    for actual in (values, chosen.grad, rejected.grad):
        assert actual is not None
        assert bool(actual.isfinite().all())


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))
