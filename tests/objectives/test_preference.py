"""Losses on the difference of a pair's rewards: values and gradients by hand, limits, extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from accord.objectives.preference import (
    cdpo_loss,
    discopop_loss,
    dpo_loss,
    dpo_normalised_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    ipo_summed_loss,
    robust_loss,
    wpo_weights,
)
from tests.objectives.pair_losses import (
    PairLoss,
    assert_finite_at,
    assert_gradient_is_of_value,
    sigma,
    value_and_derivatives,
)


def per_token(loss: Callable[..., Tensor], beta: float) -> PairLoss:
    """A loss that takes lengths, on responses of 4 and 5 tokens."""

    def at(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(
            chosen, rejected, torch.full_like(chosen, 4), torch.full_like(chosen, 5), beta=beta
        )

    return at


LOSSES: dict[str, PairLoss] = {
    "dpo": partial(dpo_loss, beta=0.5),
    "cdpo": partial(cdpo_loss, beta=0.5, label_smoothing=0.1),
    "robust": partial(robust_loss, beta=0.5, label_smoothing=0.1),
    "hinge": partial(hinge_loss, beta=0.5),
    "ipo": per_token(ipo_loss, 0.5),
    "ipo_summed": partial(ipo_summed_loss, beta=0.5),
    "dpo_normalised": per_token(dpo_normalised_loss, 0.5),
    "exo_pair": partial(exo_pair_loss, beta=0.5, label_smoothing=0.1),
    "discopop": partial(discopop_loss, beta=0.5, tau=0.05),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    assert_gradient_is_of_value(LOSSES[name])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes_stay_finite(name: str, dtype: torch.dtype) -> None:
    assert_finite_at(LOSSES[name], [1e3, -1e3, 0.0], dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_difference_of_the_rewards_counts(name: str) -> None:
    # Both responses made more probable by the same factor: a step in the direction (1, 1), or,
    # where rewards are means over 4 and 5 tokens, (4, 5), so the derivatives along it cancel.
    along = (4.0, 5.0) if name in ("ipo", "dpo_normalised") else (1.0, 1.0)
    _, of_chosen, of_rejected = value_and_derivatives(LOSSES[name], 0.7, -0.4)
    assert abs(of_chosen) > 1e-3
    assert along[0] * of_chosen + along[1] * of_rejected == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "robust", "hinge", "dpo_normalised"])
def test_the_loss_never_rises_with_the_difference(name: str) -> None:
    chosen = torch.linspace(-30, 30, 121, dtype=torch.float64)
    loss = LOSSES[name](chosen, torch.zeros_like(chosen))
    assert bool((loss.diff() <= 0).all())


def test_dpo_by_hand() -> None:
    # β = 0.5 and a difference of 2 give h = 1: −log σ(1) = log(1 + e⁻¹); −2 gives log(1 + e).
    chosen, rejected = torch.tensor([3.0, -2.0]), torch.tensor([1.0, 0.0])
    expected = [math.log1p(math.exp(-1)), math.log1p(math.exp(1))]
    assert dpo_loss(chosen, rejected, beta=0.5).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_dpo_at_zero(beta: float) -> None:
    # −log σ(0) = log 2 for every β; d/dc −log σ(β(c − r)) = −β·σ(−h), at h = 0 −β/2.
    value, of_chosen, of_rejected = value_and_derivatives(partial(dpo_loss, beta=beta), 1.5, 1.5)
    assert value == pytest.approx(math.log(2))
    assert of_chosen == pytest.approx(-beta / 2)
    assert of_rejected == pytest.approx(beta / 2)


def test_dpo_at_extremes() -> None:
    # h = ±1000: −log σ is e⁻¹⁰⁰⁰, which is 0, and 1000; its derivatives are 0 and −β.
    loss = partial(dpo_loss, beta=1.0)
    assert value_and_derivatives(loss, 1000.0, 0.0)[:2] == (0.0, 0.0)
    assert value_and_derivatives(loss, -1000.0, 0.0)[:2] == (1000.0, -1.0)


def test_cdpo_by_hand() -> None:
    # h = 1, ε = 0.1: 0.9·log(1 + e⁻¹) + 0.1·log(1 + e).
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    loss = partial(cdpo_loss, beta=0.5, label_smoothing=0.1)
    assert value_and_derivatives(loss, 2.0, 0.0)[0] == pytest.approx(0.9 * right + 0.1 * wrong)
    # Without smoothing it is DPO.
    plain = cdpo_loss(torch.tensor([2.0]), torch.tensor([0.0]), beta=0.5, label_smoothing=0.0)
    assert plain.tolist() == pytest.approx([right])


def test_cdpo_has_its_minimum_at_the_flip_probability() -> None:
    # d/dh = −(1−ε)·σ(−h) + ε·σ(h) = σ(h) − (1−ε), which is 0 at h = log((1−ε)/ε) = log 4.
    loss = partial(cdpo_loss, beta=0.5, label_smoothing=0.2)
    best = math.log(4) / 0.5
    assert value_and_derivatives(loss, best, 0.0)[1] == pytest.approx(0.0, abs=1e-12)
    assert (
        value_and_derivatives(loss, best - 1, 0.0)[1]
        < 0
        < value_and_derivatives(loss, best + 1, 0.0)[1]
    )


def test_robust_by_hand() -> None:
    # h = 1, ε = 0.1: (0.9·log(1 + e⁻¹) − 0.1·log(1 + e)) / 0.8.
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    loss = partial(robust_loss, beta=0.5, label_smoothing=0.1)
    value, slope, _ = value_and_derivatives(loss, 2.0, 0.0)
    assert value == pytest.approx((0.9 * right - 0.1 * wrong) / 0.8)
    # d/dc = −β·((1−ε)·σ(−h) + ε·σ(h)) / (1 − 2ε).
    assert slope == pytest.approx(-0.5 * (0.9 * sigma(-1) + 0.1 * sigma(1)) / 0.8)


def test_robust_is_dpo_on_average_over_flipped_labels() -> None:
    # Each pair is correct with probability 0.7, otherwise flipped.
    chosen, rejected = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([0.5, 2.0, 0.3])
    loss = partial(robust_loss, beta=0.5, label_smoothing=0.3)
    mean = 0.7 * loss(chosen, rejected) + 0.3 * loss(rejected, chosen)
    h = [0.5 * (c - r) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    assert mean.tolist() == pytest.approx([math.log1p(math.exp(-x)) for x in h])


@pytest.mark.parametrize("smoothing", [0.5, 0.7, -0.1])
def test_robust_refuses_uninformative_labels(smoothing: float) -> None:
    with pytest.raises(ValueError, match="below ½"):
        robust_loss(torch.zeros(1), torch.zeros(1), beta=0.1, label_smoothing=smoothing)


def test_hinge_by_hand() -> None:
    # β = 0.5: 1 − h falls from 2 at a difference of −2 to 0 at 2, and stays there.
    differences = torch.tensor([-2.0, 0.0, 1.0, 2.0, 3.0])
    values = hinge_loss(differences, torch.zeros(5), beta=0.5)
    assert values.tolist() == [2.0, 1.0, 0.5, 0.0, 0.0]
    loss = partial(hinge_loss, beta=0.5)
    assert value_and_derivatives(loss, 1.0, 0.0) == (0.5, -0.5, 0.5)
    assert value_and_derivatives(loss, 3.0, 0.0) == (0.0, 0.0, 0.0)


def test_ipo_summed_by_hand() -> None:
    # β = 0.25: the target is 1/(2·0.25) = 2. A difference of 5 misses it by 3: 9, derivative 2·3.
    loss = partial(ipo_summed_loss, beta=0.25)
    assert value_and_derivatives(loss, 4.0, -1.0) == (9.0, 6.0, -6.0)
    assert value_and_derivatives(loss, 1.0, -1.0) == (0.0, 0.0, 0.0)
    assert value_and_derivatives(loss, 0.0, 0.0) == (4.0, -4.0, 4.0)


def test_ipo_by_hand() -> None:
    # Means of 8/4 = 2 and −5/5 = −1 differ by 3, one past the target of 2: 1. The derivative for
    # the chosen sum is 2·1/4, for the rejected one −2·1/5.
    chosen_length, rejected_length = torch.tensor([4]), torch.tensor([5])

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return ipo_loss(chosen, rejected, chosen_length, rejected_length, beta=0.25)

    assert value_and_derivatives(loss, 8.0, -5.0) == pytest.approx((1.0, 0.5, -0.4))
    assert value_and_derivatives(loss, 4.0, -5.0) == pytest.approx((0.0, 0.0, 0.0))  # at the target


def test_dpo_normalised_by_hand() -> None:
    # Means 8/4 = 2 and −5/5 = −1, β = 2: h = 6. Derivatives −β·σ(−6)/4 and β·σ(−6)/5.
    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return dpo_normalised_loss(chosen, rejected, torch.tensor([4]), torch.tensor([5]), beta=2.0)

    expected = (math.log1p(math.exp(-6)), -2 * sigma(-6) / 4, 2 * sigma(-6) / 5)
    assert value_and_derivatives(loss, 8.0, -5.0) == pytest.approx(expected)


def test_exo_by_hand() -> None:
    # h = log 3: (σ(h), σ(−h)) = (¾, ¼), so the KL to (0.9, 0.1) is ¾·log(¾/0.9) + ¼·log(¼/0.1).
    loss = partial(exo_pair_loss, beta=1.0, label_smoothing=0.1)
    value, slope, _ = value_and_derivatives(loss, math.log(3), 0.0)
    assert value == pytest.approx(0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1))
    # d/dh = σ(h)·σ(−h)·(h − log((1−ε)/ε)): here 3/16·(log 3 − log 9).
    assert slope == pytest.approx(3 / 16 * (math.log(3) - math.log(9)))


def test_exo_has_its_minimum_where_cdpo_has() -> None:
    # The KL is 0 where the two distributions are the same, at h = log((1−ε)/ε) = log 9.
    loss = partial(exo_pair_loss, beta=1.0, label_smoothing=0.1)
    assert value_and_derivatives(loss, math.log(9), 0.0) == pytest.approx(
        (0.0, 0.0, 0.0), abs=1e-12
    )
    # At extremes it is the KL from a certain label, −log ε below and −log(1−ε) above, gradient 0.
    assert value_and_derivatives(loss, -1e3, 0.0)[:2] == pytest.approx((-math.log(0.1), 0.0))
    assert value_and_derivatives(loss, 1e3, 0.0)[:2] == pytest.approx((-math.log(0.9), 0.0))


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_exo_refuses_a_certain_label(smoothing: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        exo_pair_loss(torch.zeros(1), torch.zeros(1), beta=0.1, label_smoothing=smoothing)


def test_discopop_by_hand() -> None:
    # h = 0.05 = τ: (1 − σ(1))·log(1 + e^−0.05) + σ(1)·e^−0.05. At 0: ½·log 2 + ½.
    loss = partial(discopop_loss, beta=1.0, tau=0.05)
    expected = (1 - sigma(1)) * math.log1p(math.exp(-0.05)) + sigma(1) * math.exp(-0.05)
    assert value_and_derivatives(loss, 0.05, 0.0)[0] == pytest.approx(expected)
    assert value_and_derivatives(loss, 0.0, 0.0)[0] == pytest.approx(0.5 * math.log(2) + 0.5)


def test_discopop_is_dpo_below_and_exponential_above() -> None:
    loss = partial(discopop_loss, beta=1.0, tau=0.05)
    # h = −3: σ(−60) is 0 and −log σ(−3) remains. h = 3: e^−3, derivative −e^−3.
    assert value_and_derivatives(loss, -3.0, 0.0)[0] == pytest.approx(math.log1p(math.exp(3)))
    assert value_and_derivatives(loss, 3.0, 0.0)[:2] == pytest.approx((math.exp(-3), -math.exp(-3)))
    # The dip in the docstring: the loss at −0.1 is below that at −0.3 and at 0.
    low, dip, high = (value_and_derivatives(loss, x, 0.0)[0] for x in (-0.3, -0.1, 0.0))
    assert dip < low
    assert dip < high


def test_wpo_weights_by_hand() -> None:
    # Two tokens of p = (½, ½): log ½ − log ½ = 0 each. One of p = (¾, ¼) that was the more likely:
    # log ¾ − log(9/16 + 1/16) = log 1.2; the other: log ¼ − log ⅝ = log 0.4.
    alignment = torch.tensor([0.0, math.log(1.2), math.log(0.4)], requires_grad=True)
    weights = wpo_weights(alignment, alignment.flip(0))
    assert weights.tolist() == pytest.approx([0.4, 1.44, 0.4])
    assert not weights.requires_grad
