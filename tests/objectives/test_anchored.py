"""Losses that compare each response with a fixed point: values, gradients, minima, extremes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from accord.objectives.anchored import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    nca_pair_loss,
    sppo_hard_loss,
)
from accord.objectives.preference import dpo_loss
from tests.objectives.pair_losses import (
    PairLoss,
    assert_finite_at,
    assert_gradient_is_of_value,
    sigma,
    value_and_derivatives,
)

LOSSES: dict[str, PairLoss] = {
    "nca_pair": partial(nca_pair_loss, beta=0.5),
    "sppo_hard": partial(sppo_hard_loss, beta=0.5),
    "apo_zero": partial(apo_zero_loss, beta=0.5),
    "apo_down": partial(apo_down_loss, beta=0.5),
    "bco_pair": partial(bco_pair_loss, beta=0.5, delta=0.3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    assert_gradient_is_of_value(LOSSES[name])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes_stay_finite(name: str, dtype: torch.dtype) -> None:
    assert_finite_at(LOSSES[name], [1e3, -1e3, 0.0], dtype)


@pytest.mark.parametrize("name", ["nca_pair", "apo_zero", "apo_down", "bco_pair"])
def test_the_loss_never_falls_as_the_rejected_response_gets_likelier(name: str) -> None:
    rejected = torch.linspace(-30, 30, 121, dtype=torch.float64)
    loss = LOSSES[name](torch.full_like(rejected, 0.7), rejected)
    assert bool((loss.diff() >= 0).all())


def softplus(x: float) -> float:
    """−log σ(−x)."""
    return math.log1p(math.exp(x))


def test_nca_by_hand() -> None:
    # β = 0.5 on (2, −4): c = 1, r = −2. −log σ(1) − ½·log σ(−1) − ½·log σ(2).
    value, of_chosen, of_rejected = value_and_derivatives(LOSSES["nca_pair"], 2.0, -4.0)
    assert value == pytest.approx(softplus(-1) + 0.5 * softplus(1) + 0.5 * softplus(-2))
    # d/dc = −σ(−c) + ½·σ(c), d/dr = ½·σ(r), both times β.
    assert of_chosen == pytest.approx(0.5 * (-sigma(-1) + 0.5 * sigma(1)))
    assert of_rejected == pytest.approx(0.5 * 0.5 * sigma(-2))


def test_nca_at_zero_and_at_its_minimum_for_the_chosen() -> None:
    assert value_and_derivatives(LOSSES["nca_pair"], 0.0, 0.0) == pytest.approx(
        (2 * math.log(2), -0.125, 0.125)
    )
    # −σ(−c) + ½·σ(c) = 0 where σ(c) = ⅔, c = log 2; the log-ratio is c/β.
    best = math.log(2) / 0.5
    assert value_and_derivatives(LOSSES["nca_pair"], best, 5.0)[1] == pytest.approx(0.0, abs=1e-12)


def test_sppo_by_hand() -> None:
    # β = 0.5: targets ±1. (3 − 1)² + (−1 + 1)² = 4, derivatives 2·2 and 0.
    assert value_and_derivatives(LOSSES["sppo_hard"], 3.0, -1.0) == (4.0, 4.0, 0.0)
    assert value_and_derivatives(LOSSES["sppo_hard"], 1.0, -1.0) == (0.0, 0.0, 0.0)
    assert value_and_derivatives(LOSSES["sppo_hard"], 0.0, 0.0) == (2.0, -2.0, 2.0)


def test_apo_zero_by_hand() -> None:
    # c = 1, r = −2: 1 − σ(1) + σ(−2). Derivatives −β·σ(c)σ(−c) and β·σ(r)σ(−r).
    expected = (
        1 - sigma(1) + sigma(-2),
        -0.5 * sigma(1) * sigma(-1),
        0.5 * sigma(2) * sigma(-2),
    )
    assert value_and_derivatives(LOSSES["apo_zero"], 2.0, -4.0) == pytest.approx(expected)
    assert value_and_derivatives(LOSSES["apo_zero"], 0.0, 0.0) == (1.0, -0.125, 0.125)


def test_apo_down_by_hand() -> None:
    # c = 1, r = −2: σ(1) + 1 − σ(3). d/dc = σ(c)σ(−c) − σ(3)σ(−3), d/dr = σ(3)σ(−3), times β.
    steep, flat = sigma(1) * sigma(-1), sigma(3) * sigma(-3)
    expected = (sigma(1) + 1 - sigma(3), 0.5 * (steep - flat), 0.5 * flat)
    assert value_and_derivatives(LOSSES["apo_down"], 2.0, -4.0) == pytest.approx(expected)


def test_apo_down_lowers_the_chosen_once_the_two_are_apart() -> None:
    # At equal rewards the two terms for the chosen cancel: σ'(0) − σ'(0).
    assert value_and_derivatives(LOSSES["apo_down"], 0.0, 0.0) == (1.0, 0.0, 0.125)
    # Far apart only σ(c) is left, which falls with the chosen's likelihood.
    assert value_and_derivatives(LOSSES["apo_down"], 0.0, -100.0)[1] == pytest.approx(0.125)


def test_bco_by_hand() -> None:
    # c = 1, r = −2, δ = 0.3: −log σ(0.7) − log σ(2.3); derivatives −β·σ(−0.7) and β·σ(−2.3).
    value, of_chosen, of_rejected = value_and_derivatives(LOSSES["bco_pair"], 2.0, -4.0)
    assert value == pytest.approx(softplus(-0.7) + softplus(-2.3))
    assert of_chosen == pytest.approx(-0.5 * sigma(-0.7))
    assert of_rejected == pytest.approx(0.5 * sigma(-2.3))


def test_bco_bounds_dpo_most_tightly_at_the_middle_of_the_rewards() -> None:
    # σ(a)·σ(b) ≤ σ(a + b): for c = 3, r = 1 the bound is a function of δ, least at δ = 2.
    chosen, rejected = torch.tensor([3.0]), torch.tensor([1.0])
    bounds = [
        float(bco_pair_loss(chosen, rejected, beta=1.0, delta=d)) for d in (0.0, 1.5, 2.0, 2.5)
    ]
    assert min(bounds) == bounds[2] > float(dpo_loss(chosen, rejected, beta=1.0))
    # δ as a tensor, such as a running mean.
    as_tensor = bco_pair_loss(chosen, rejected, beta=1.0, delta=torch.tensor(2.0))
    assert float(as_tensor) == pytest.approx(2 * softplus(-1))
