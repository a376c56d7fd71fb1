"""AOT over a small batch: which values are matched, and where the gradient goes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from accord.objectives.optimal_transport import aot_loss, aot_unpaired_loss
from tests.objectives.pair_losses import (
    assert_finite_at,
    assert_gradient_is_of_value,
    sigma,
    value_and_derivatives,
)

LOSSES = {"paired": partial(aot_loss, beta=0.5), "unpaired": partial(aot_unpaired_loss, beta=0.5)}


def loss_at(h: float) -> float:
    return math.log1p(math.exp(-h))


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_matched_by_rank(name: str) -> None:
    # Sorted: (−1, 1, 4) against (0, 2, 3): differences −1, −1, 1, times β = 0.5.
    first = torch.tensor([4.0, -1.0, 1.0], requires_grad=True)
    second = torch.tensor([2.0, 3.0, 0.0], requires_grad=True)
    loss = LOSSES[name](first, second)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([loss_at(-0.5), loss_at(-0.5), loss_at(0.5)])
    # −β·σ(−h) is the gradient of each value before sorting: 4 is matched to 3, −1 to 0, 1 to 2.
    large, small = -0.5 * sigma(-0.5), -0.5 * sigma(0.5)
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.tolist() == pytest.approx([large, small, small])
    assert second.grad.tolist() == pytest.approx([-small, -large, -small])


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_within_the_batch_does_not_matter(name: str) -> None:
    first, second = torch.tensor([0.3, -2.0, 1.0, 0.9]), torch.tensor([1.5, -0.2, 0.0, 2.0])
    shuffled = LOSSES[name](first[[2, 0, 3, 1]], second[[1, 3, 0, 2]])
    assert shuffled.tolist() == LOSSES[name](first, second).tolist()


@pytest.mark.parametrize("name", LOSSES)
def test_one_pair_is_dpo(name: str) -> None:
    # −log σ(β·(2 − (−1))), derivative −β·σ(−1.5).
    value, of_first, of_second = value_and_derivatives(LOSSES[name], 2.0, -1.0)
    assert value == pytest.approx(loss_at(1.5))
    assert (of_first, of_second) == pytest.approx((-0.5 * sigma(-1.5), 0.5 * sigma(-1.5)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    assert_gradient_is_of_value(LOSSES[name])


@pytest.mark.parametrize("name", LOSSES)
def test_extremes_stay_finite(name: str) -> None:
    assert_finite_at(LOSSES[name], [1e3, -1e3, 0.0], torch.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_sorting_never_costs_more_than_unsorted_pairs(name: str) -> None:
    # −log σ is convex, so matching equal ranks is the cheapest of all matchings.
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, generator=generator)
    unsorted = -torch.nn.functional.logsigmoid(0.5 * (first - second)).sum()
    assert float(LOSSES[name](first, second).sum()) < float(unsorted)
