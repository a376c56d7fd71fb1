"""The DPO loss at its known points."""

from __future__ import annotations

import math

import pytest
import torch

from accord.objectives.preference import dpo_loss


def test_equal_margins_give_log_2() -> None:
    # h = 0: −log σ(0) = log 2, for every β and label smoothing.
    margin = torch.tensor([0.0, -3.0, 7.5])
    for beta, smoothing in ((0.1, 0.0), (2.0, 0.0), (0.5, 0.3)):
        loss = dpo_loss(margin, margin.clone(), beta=beta, label_smoothing=smoothing)
        assert loss.tolist() == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_slope_at_zero_is_minus_half_beta(beta: float) -> None:
    # d/dm −log σ(βm) = −β·σ(−βm), at m = 0 −β/2; with smoothing ε it is −β/2·(1 − 2ε).
    for smoothing in (0.0, 0.2):
        policy = torch.zeros(1, requires_grad=True)
        dpo_loss(policy, torch.zeros(1), beta=beta, label_smoothing=smoothing).backward()
        assert policy.grad is not None
        assert float(policy.grad) == pytest.approx(-beta / 2 * (1 - 2 * smoothing))


def test_values_by_hand() -> None:
    # β = 0.5, policy margin 4, reference margin 2: h = 1. −log σ(1) = log(1 + e⁻¹);
    # −log σ(−1) = log(1 + e). Pairs are apart from each other.
    policy, reference = torch.tensor([4.0, -2.0]), torch.tensor([2.0, 0.0])
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert dpo_loss(policy, reference, beta=0.5).tolist() == pytest.approx([right, wrong])
    smooth = dpo_loss(policy, reference, beta=0.5, label_smoothing=0.1)
    assert smooth.tolist() == pytest.approx([0.9 * right + 0.1 * wrong, 0.9 * wrong + 0.1 * right])


def test_large_margins_stay_finite() -> None:
    policy = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = dpo_loss(policy, torch.zeros(2), beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 1e4])
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([0.0, -1.0])


def test_smoothing_puts_the_minimum_at_the_flip_probability() -> None:
    # d/dh = −(1−ε)σ(−h) + εσ(h) is 0 where σ(h) = 1 − ε, so h* = log((1−ε)/ε).
    smoothing, beta = 0.2, 0.5
    best = math.log((1 - smoothing) / smoothing) / beta
    margin = torch.tensor([best], requires_grad=True)
    dpo_loss(margin, torch.zeros(1), beta=beta, label_smoothing=smoothing).backward()
    assert margin.grad is not None
    assert float(margin.grad) == pytest.approx(0.0, abs=1e-7)
