"""KL estimators on distributions that are small enough for exact sums."""

from __future__ import annotations

import pytest
import torch

from accord.objectives.divergences import kl_k1, kl_k2, kl_k3

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.25, 0.25, 0.4, 0.1], dtype=torch.float64)


def test_k1_and_k3_have_the_kl_as_their_mean() -> None:
    log_ratio = (P / Q).log()
    kl = float((P * log_ratio).sum())
    assert float((P * kl_k1(log_ratio)).sum()) == pytest.approx(kl, rel=1e-12)
    assert float((P * kl_k3(log_ratio)).sum()) == pytest.approx(kl, rel=1e-12)


def test_k3_and_k2_are_never_negative_and_k1_may_be() -> None:
    log_ratio = (P / Q).log()
    assert bool((kl_k1(log_ratio) < 0).any())
    assert bool((kl_k2(log_ratio) >= 0).all())
    assert bool((kl_k3(log_ratio) >= 0).all())


def test_values_by_hand() -> None:
    # log-ratio log 2, so r = π_ref/π = ½: k2 = ½·log²2, k3 = ½ − 1 + log 2.
    log_two = torch.tensor(2.0, dtype=torch.float64).log()
    assert float(kl_k1(log_two)) == float(log_two)
    assert float(kl_k2(log_two)) == pytest.approx(0.5 * float(log_two) ** 2)
    assert float(kl_k3(log_two)) == pytest.approx(float(log_two) - 0.5)


def test_k2_is_biased_but_agrees_to_second_order() -> None:
    # Near q = p the KL is ½·Σ p·log-ratio² up to third order.
    near = P * (1 + 1e-3 * torch.tensor([1.0, -1.0, 1.0, -7.0], dtype=torch.float64))
    near = near / near.sum()
    log_ratio = (P / near).log()
    kl = float((P * log_ratio).sum())
    assert float((P * kl_k2(log_ratio)).sum()) == pytest.approx(kl, rel=1e-2)


def test_k3_keeps_small_ratios_exact() -> None:
    # r − 1 − log r ≈ ½·x² for small x; the plain formula loses all digits in float32.
    x = torch.tensor([1e-3, -1e-3])
    torch.testing.assert_close(kl_k3(x), 0.5 * x.square(), rtol=1e-2, atol=0)
