"""ORPO's odds and SimPO by hand, and ORPO at probabilities near 1."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from accord.objectives.reference_free import log_odds, odds_ratio_loss, simpo_loss
from tests.objectives.pair_losses import assert_finite_at, sigma, value_and_derivatives


def test_log_odds_by_hand() -> None:
    # p = ½: odds 1; ¾: 3; 0.1: 1/9.
    actual = log_odds(torch.tensor([0.5, 0.75, 0.1]).log())
    assert actual.tolist() == pytest.approx([0.0, math.log(3), -math.log(9)], abs=1e-6)


def test_log_odds_are_accurate_at_both_ends() -> None:
    # p = e^−x, x small: odds 1/(e^x − 1) = (1 − x/2 + …)/x. p tiny: odds are p.
    near_one = float(log_odds(torch.tensor([-1e-5])))
    assert near_one == pytest.approx(-math.log(math.expm1(1e-5)), rel=1e-6)
    assert float(log_odds(torch.tensor([-50.0]))) == -50.0


def test_the_derivative_of_the_log_odds() -> None:
    # d log odds / d log p = 1/(1 − p): 4 at p = ¾.
    logp = torch.tensor([0.75], dtype=torch.float64).log().requires_grad_()
    log_odds(logp).backward()
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(4.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_response_has_finite_odds(dtype: torch.dtype) -> None:
    # 0 is p = 1, and a sum of rounded log-probs may even be above it.
    eps = torch.finfo(dtype).eps
    logp = torch.tensor([0.0, 1e-9, -eps / 2, -1e3], dtype=dtype, requires_grad=True)
    odds = log_odds(logp)
    odds.sum().backward()
    assert odds.tolist()[:3] == pytest.approx([-math.log(eps)] * 3, rel=1e-3)
    assert logp.grad is not None
    assert logp.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_odds_ratio_by_hand() -> None:
    # Odds 3 and ⅓: the ratio is 9, −log σ(log 9) = log(10/9). Equal: log 2.
    logp = torch.tensor([0.75, 0.25]).log()
    actual = odds_ratio_loss(logp[:1], logp[1:])
    assert actual.tolist() == pytest.approx([math.log(10 / 9)])
    assert float(odds_ratio_loss(logp[:1], logp[:1])) == pytest.approx(math.log(2))


def test_odds_ratio_derivatives() -> None:
    # σ(−log 9) = 0.1: −0.1/(1 − ¾) for the chosen log-prob, 0.1/(1 − ¼) for the rejected one.
    _, of_chosen, of_rejected = value_and_derivatives(
        odds_ratio_loss, math.log(0.75), math.log(0.25)
    )
    assert (of_chosen, of_rejected) == pytest.approx((-0.4, 0.1 / 0.75))


def test_odds_ratio_gradient_agrees_with_finite_differences() -> None:
    logps = torch.tensor([[-0.1, -3.0, -0.7], [-2.0, -0.01, -0.7]], dtype=torch.float64)
    chosen, rejected = (row.clone().requires_grad_() for row in logps)
    assert torch.autograd.gradcheck(odds_ratio_loss, (chosen, rejected))


def test_odds_ratio_extremes_stay_finite() -> None:
    assert_finite_at(odds_ratio_loss, [0.0, -1e-9, -1e-6, -1.0, -1e3], torch.float32)


def test_the_loss_falls_as_the_chosen_response_gets_likelier() -> None:
    chosen = -torch.logspace(2, -6, 200, dtype=torch.float64)  # −100 up to −10⁻⁶
    rejected = torch.full_like(chosen, -1.0)
    assert bool((odds_ratio_loss(chosen, rejected).diff() < 0).all())
    assert bool((simpo_loss(chosen, rejected, beta=2.0, gamma=0.5).diff() < 0).all())


def test_simpo_by_hand() -> None:
    # β = 2, γ = 0.5, a difference of 1: h = 1.5. Derivatives ∓β·σ(−1.5).
    loss = partial(simpo_loss, beta=2.0, gamma=0.5)
    expected = (math.log1p(math.exp(-1.5)), -2 * sigma(-1.5), 2 * sigma(-1.5))
    assert value_and_derivatives(loss, -1.0, -2.0) == pytest.approx(expected)
    # log 2 where the difference is γ/β.
    assert value_and_derivatives(loss, -1.0, -1.25)[0] == pytest.approx(math.log(2))


def test_simpo_extremes_stay_finite() -> None:
    assert_finite_at(partial(simpo_loss, beta=2.0, gamma=0.5), [0.0, -1e3], torch.float32)
