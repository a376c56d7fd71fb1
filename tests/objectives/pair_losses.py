"""What the tests of pair losses share: a loss at one pair in double precision, with its slopes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor], Tensor]


def value_and_slopes(loss: PairLoss, chosen: float, rejected: float) -> tuple[float, float, float]:
    """A loss in double precision at one pair, and its derivatives to chosen and rejected."""
    at = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected)]
    value = loss(*at)
    value.backward()
    slopes = [0.0 if x.grad is None else float(x.grad) for x in at]
    return float(value.detach()), slopes[0], slopes[1]


def assert_gradient_is_of_value(loss: PairLoss, *, shift: float = 0.0) -> None:
    """Compare autograd's derivatives with finite differences at eight random pairs."""
    generator = torch.Generator().manual_seed(1)
    chosen, rejected = (
        (3 * torch.randn(8, dtype=torch.float64, generator=generator) + shift).requires_grad_()
        for _ in range(2)
    )
    assert loss(chosen, rejected).shape == (8,)
    assert torch.autograd.gradcheck(loss, (chosen, rejected))


def assert_finite_at(loss: PairLoss, ends: list[float], dtype: torch.dtype) -> None:
    """The loss and its derivatives, at every two of the ends."""
    points = torch.tensor(ends, dtype=dtype)
    chosen = points.repeat_interleave(len(ends)).requires_grad_()
    rejected = points.repeat(len(ends)).requires_grad_()
    values = loss(chosen, rejected)
    values.sum().backward()
    for actual in (values, chosen.grad, rejected.grad):
        assert actual is not None
        assert bool(actual.isfinite().all())


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))
