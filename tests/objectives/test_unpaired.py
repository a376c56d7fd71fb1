"""KTO's values by hand, near its reference point and far from it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from accord.objectives.anchored import apo_zero_loss
from accord.objectives.unpaired import kto_loss, kto_reference_point
from tests.objectives.pair_losses import sigma


def test_by_hand() -> None:
    # β = 0.5, z₀ = 1. Desirable at 3: λ_D·(1 − σ(1)); undesirable at 3: λ_U·(1 − σ(−1)).
    ratio = torch.tensor([3.0, 3.0], requires_grad=True)
    loss = kto_loss(
        ratio,
        torch.tensor([True, False]),
        torch.tensor(1.0),
        beta=0.5,
        desirable_weight=1.5,
        undesirable_weight=0.8,
    )
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.5 * (1 - sigma(1)), 0.8 * (1 - sigma(-1))])
    # Derivatives −λ_D·β·σ(x)σ(−x) and +λ_U·β·σ(x)σ(−x).
    steep = 0.5 * sigma(1) * sigma(-1)
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([-1.5 * steep, 0.8 * steep])


def test_at_the_reference_point_the_derivative_is_largest() -> None:
    # r = z₀: λ/2, derivatives ∓β/4, for every z₀.
    for point in (0.0, 2.5):
        ratio = torch.full((2,), point, requires_grad=True)
        loss = kto_loss(ratio, torch.tensor([True, False]), point, beta=0.4)
        loss.sum().backward()
        assert loss.tolist() == [0.5, 0.5]
        assert ratio.grad is not None
        assert ratio.grad.tolist() == pytest.approx([-0.1, 0.1])


@pytest.mark.parametrize("desirable", [True, False])
def test_it_is_monotonic_between_zero_and_its_weight(desirable: bool) -> None:
    ratio = torch.linspace(-60, 60, 241, dtype=torch.float64)
    labels = torch.full((241,), desirable)
    loss = kto_loss(ratio, labels, 1.0, beta=0.5, desirable_weight=2.0, undesirable_weight=2.0)
    steps = loss.diff()
    assert bool(((steps < 0) if desirable else (steps > 0)).all())
    extremes = (2.0, 0.0) if desirable else (0.0, 2.0)
    assert (float(loss[0]), float(loss[-1])) == pytest.approx(extremes, abs=1e-9)


def test_the_gradient_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    ratio = (3 * torch.randn(8, dtype=torch.float64, generator=generator)).requires_grad_()
    labels = torch.arange(8) % 3 == 0
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
    loss = partial(
        kto_loss, desirable=labels, reference_point=torch.tensor(0.4), beta=0.5, **weights
    )
    assert torch.autograd.gradcheck(loss, (ratio,))


@pytest.mark.parametrize("point", [0.0, 1e3])
def test_extremes_stay_finite(point: float) -> None:
    ratio = torch.tensor([1e3, -1e3, 0.0] * 2, requires_grad=True)
    labels = torch.tensor([True] * 3 + [False] * 3)
    loss = kto_loss(ratio, labels, point, beta=1.0)
    loss.sum().backward()
    assert ratio.grad is not None
    assert bool(loss.isfinite().all())
    assert bool(ratio.grad.isfinite().all())


def test_at_zero_it_is_apo_zero_on_single_responses() -> None:
    chosen, rejected = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    single = kto_loss(
        torch.cat([chosen, rejected]), torch.tensor([True, True, False, False]), 0.0, beta=0.5
    )
    pairs = apo_zero_loss(chosen, rejected, beta=0.5)
    assert (single[:2] + single[2:]).tolist() == pytest.approx(pairs.tolist())


def test_the_reference_point() -> None:
    ratio = torch.tensor([3.0, -1.0, 1.0], requires_grad=True)
    point = kto_reference_point(ratio)
    assert float(point) == pytest.approx(1.0)  # (3 − 1 + 1)/3
    assert not point.requires_grad
    assert float(kto_reference_point(torch.tensor([1.0, -2.0]))) == 0.0  # a KL is never negative


def test_the_reference_point_is_the_kl_for_samples_of_the_policy() -> None:
    # Over two responses, π = (¾, ¼) and π_ref = (½, ½): the mean of log π/π_ref over samples in
    # proportion 3 : 1 is ¾·log 1.5 + ¼·log 0.5, which is KL(π‖π_ref).
    ratios = torch.tensor([math.log(1.5)] * 3 + [math.log(0.5)])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(kto_reference_point(ratios)) == pytest.approx(expected)
