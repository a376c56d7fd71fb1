"""KL of best-of-N, Gao's fits, and the gap between proxy and true reward."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accord.measure.over_optimisation import (
    best_of_n_kl,
    best_of_n_weights,
    fit_best_of_n,
    fit_reinforcement,
    hacking_gap,
    kl_distance,
)


@pytest.mark.parametrize(
    ("n", "published"), [(1, 0.0), (2, 0.193), (4, 0.636), (16, 1.835), (64, 3.175)]
)
def test_best_of_n_kl_is_the_published_one(n: int, published: float) -> None:
    assert best_of_n_kl(n) == pytest.approx(published, abs=5e-4)


def test_best_of_n_kl_by_integration() -> None:
    # The best of N has density N·F^(N−1) relative to the reference; with u = F uniform,
    # KL = ∫ N·u^(N−1)·log(N·u^(N−1)) du.
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = 8 * u**7
    assert best_of_n_kl(8) == pytest.approx(float(np.mean(density * np.log(density))), rel=1e-5)
    with pytest.raises(ValueError, match="best-of-0 chooses from nothing"):
        best_of_n_kl(0)


def test_a_negative_estimate_is_at_distance_zero() -> None:
    assert kl_distance(4.0) == 2
    assert kl_distance(-0.01) == 0


def test_the_best_of_n_fit_recovers_its_curve() -> None:
    d = np.linspace(0, 3, 13)
    fit = fit_best_of_n(d**2, d * (1.2 - 0.3 * d))
    assert (fit.alpha, fit.beta) == pytest.approx((1.2, 0.3))
    assert fit.peak_distance == pytest.approx(2.0)  # 1.2 / (2·0.3)
    assert fit.peak_reward == pytest.approx(1.2)
    assert fit.residual == pytest.approx(0, abs=1e-12)


def test_the_reinforcement_fit_recovers_its_curve() -> None:
    d = np.linspace(0.1, 12, 30)
    fit = fit_reinforcement(np.append(0, d**2), np.append(0, d * (1.0 - 0.5 * np.log(d))))
    assert (fit.alpha, fit.beta) == pytest.approx((1.0, 0.5))
    # exp(1/0.5 − 1) = e; there R = β·d
    assert fit.peak_distance == pytest.approx(math.e)
    assert fit.peak_reward == pytest.approx(0.5 * math.e)


def test_a_curve_that_only_rises_has_no_peak() -> None:
    d = np.linspace(0, 3, 10)
    assert fit_best_of_n(d**2, d * (1 + 0.1 * d)).peak_distance is None
    assert fit_reinforcement(d**2, d * (1 + 0.1 * np.log(d + 1e-9))).peak_reward is None
    # Nor is there one beyond the range of floats.
    assert fit_reinforcement(d**2, d * (1 - 1e-6 * np.log(d + 1e-9))).peak_distance is None


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two different distances above 0"):
        fit_best_of_n([0.0, 1.0, 1.0], [0.0, 1.0, 1.1])
    with pytest.raises(ValueError, match="one finite reward for each finite KL of at least 0"):
        fit_best_of_n([1.0, 2.0], [1.0, math.nan])


def test_hacking_is_reported_in_a_sentence() -> None:
    result = hacking_gap(
        [0.0, 1.0, 2.0, 3.0], [0.2, 0.6, 0.5, 0.1], names=["sft", "ppo 1", "ppo 2", "ppo 3"]
    )
    assert result.hacked
    assert (result.best, result.worst) == (1, 3)
    assert result.finding == (
        "The reward is hacked: from ppo 1 to ppo 3 the proxy reward rises by 2 while the true "
        "reward falls by 0.5."
    )


def test_no_hacking_where_both_fall_or_within_chance() -> None:
    assert not hacking_gap([0, 2, 1], [0.0, 0.5, 0.3]).hacked  # the proxy falls as well
    assert not hacking_gap([0, 1, 2], [0.0, 0.5, 0.45], tolerance=0.1).hacked
    assert hacking_gap([0, 1, 2], [0.0, 0.5, 0.45]).hacked
    assert not hacking_gap([0, 1, 2], [0.1, 0.2, 0.3]).hacked
    with pytest.raises(ValueError, match="2 proxy rewards and 1 true ones"):
        hacking_gap([1, 2], [1])


def test_weights_of_the_best_of_n() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert best_of_n_weights(values, 2) @ values == pytest.approx(10 / 3)
    assert best_of_n_weights(values, 1).tolist() == [0.25] * 4
    assert best_of_n_weights(values, 4).tolist() == [0, 0, 0, 1]
    assert best_of_n_weights([3.0, 1.0, 2.0], 2).tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    # Equal scores: either may be the best.
    assert best_of_n_weights([1.0, 5.0, 5.0], 2).tolist() == pytest.approx([0, 1 / 2, 1 / 2])
    for n in (0, 5):
        with pytest.raises(ValueError, match="not known"):
            best_of_n_weights(values, n)


def test_the_estimate_of_best_of_n_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    estimates = [best_of_n_weights(x, 4) @ x for x in rng.normal(size=(4000, 12))]
    truth = rng.normal(size=(200_000, 4)).max(axis=1).mean()
    assert np.mean(estimates) == pytest.approx(truth, abs=0.03)
