"""Rates of red-teaming against closed forms, simulation, and an independent likelihood."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from accord.measure.audits.attack_success import (
    GraderError,
    corrected_share,
    fit_success,
    rogan_gladen,
    success_within,
    unbiased_success_within,
)

XSTEST = GraderError(620, 651, 663, 699)  # of compliance


def test_rogan_gladen() -> None:
    # (p + specificity − 1)/(sensitivity + specificity − 1) = .085/.306; published as .2785, from
    # rates before rounding: with a specificity of .3853 it is .0853/.3063.
    assert rogan_gladen(0.70, 0.921, 0.385) == pytest.approx(0.085 / 0.306, abs=1e-12)
    assert rogan_gladen(0.70, 0.921, 0.3853) == pytest.approx(0.2785, abs=5e-5)
    # It inverts p = π·sensitivity + (1 − π)(1 − specificity).
    for share in (0.0, 0.3, 1.0):
        observed = share * 0.9 + (1 - share) * 0.2
        assert rogan_gladen(observed, 0.9, 0.8) == pytest.approx(share)
    with pytest.raises(ValueError, match="hardly better than chance"):
        rogan_gladen(0.5, 0.5, 0.52)


def test_a_grader_of_the_opposite() -> None:
    opposite = GraderError(663, 699, 620, 651).of_the_opposite()
    assert opposite == XSTEST
    assert (opposite.sensitivity, opposite.specificity) == (620 / 651, 663 / 699)
    with pytest.raises(ValueError, match="3 of 2"):
        GraderError(3, 2, 1, 1)
    with pytest.raises(ValueError, match="0 of 0"):
        GraderError(0, 0, 1, 1)


def test_the_corrected_share_carries_all_three_errors() -> None:
    values = [[1.0]] * 60 + [[0.0]] * 140
    share = corrected_share(values, XSTEST)
    youden = 620 / 651 + 663 / 699 - 1
    expected = (0.3 + 663 / 699 - 1) / youden
    assert share.corrected.mean == pytest.approx(expected)
    assert share.raw.mean == 0.3
    assert not share.is_clipped
    # The delta method, to first order: var(π) = [var(p) + π²·var(sens) + (1 − π)²·var(spec)]/J².
    variance = 0.3 * 0.7 / 200
    variance += expected**2 * (620 / 651) * (31 / 651) / 651
    variance += (1 - expected) ** 2 * (663 / 699) * (36 / 699) / 699
    half = 1.96 * math.sqrt(variance) / youden
    assert share.corrected.low == pytest.approx(expected - half, abs=0.012)
    assert share.corrected.high == pytest.approx(expected + half, abs=0.012)
    # A grader that is hardly known makes the interval wider, one that never errs leaves it.
    vague = corrected_share(values, GraderError(19, 20, 19, 20)).corrected
    assert vague.high - vague.low > share.corrected.high - share.corrected.low  # type: ignore
    exact = corrected_share(values, GraderError(10**6, 10**6, 10**6, 10**6))
    assert exact.corrected.mean == pytest.approx(0.3)
    assert exact.corrected.low == pytest.approx(share.raw.low, abs=0.01)  # type: ignore


def test_a_share_that_the_error_alone_explains_is_clipped_and_no_narrower_than_raw() -> None:
    share = corrected_share([[0.0]] * 40, XSTEST)
    assert share.is_clipped
    assert share.corrected.mean == 0
    assert share.corrected.low == 0
    # 0 of 40: at most 1 − .025^(1/40) by the exact interval.
    assert share.corrected.high == pytest.approx(1 - 0.025 ** (1 / 40))


def test_prompts_are_the_independent_units() -> None:
    once = corrected_share([[1.0]] * 15 + [[0.0]] * 35, XSTEST).corrected
    # The same answer ten times is no more evidence than once.
    repeated = corrected_share([[1.0] * 10] * 15 + [[0.0] * 10] * 35, XSTEST).corrected
    assert repeated.high - repeated.low > 0.9 * (once.high - once.low)  # type: ignore
    # Attempts that differ within prompts as much as they can are worth their number.
    mixed = corrected_share([[1.0, 0.0, 0.0]] * 50, XSTEST).corrected
    assert mixed.high - mixed.low < once.high - once.low  # type: ignore
    assert corrected_share([[1.0, 0.0]], XSTEST).corrected.low is None
    assert math.isnan(corrected_share([], XSTEST).corrected.mean)


def test_the_corrected_interval_covers_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(5)
    truth, covered, runs = 0.2, 0, 60
    for _ in range(runs):
        observed = truth * 0.95 + (1 - truth) * 0.05
        values = rng.binomial(1, observed, 120)[:, None].astype(float)
        error = GraderError(int(rng.binomial(300, 0.95)), 300, int(rng.binomial(300, 0.95)), 300)
        interval = corrected_share(list(values), error).corrected
        covered += interval.low <= truth <= interval.high  # type: ignore[operator]
    # With 95% promised, fewer than 53 of 60 have a chance below 2%.
    assert stats.binom.cdf(52, runs, 0.95) < 0.02
    assert covered >= 53


def test_success_within_attempts_of_a_beta_distribution() -> None:
    # Published: beta(.5, 4.5) at 1, 10, 100, 1000.
    values = success_within(0.5, 4.5, [1, 10, 100, 1000])
    assert values == pytest.approx([0.1000, 0.4535, 0.7979, 0.9349], abs=5e-5)
    # One minus the beta-binomial's chance of none.
    assert values[1] == pytest.approx(1 - stats.betabinom.pmf(0, 10, 0.5, 4.5))


def test_the_unbiased_estimate_is_the_mean_over_all_choices() -> None:
    outcomes = [[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    counts = [sum(row) for row in outcomes]
    for attempts in (1, 2, 5):
        chosen = [list(itertools.combinations(row, attempts)) for row in outcomes]
        expected = np.mean([np.mean([any(c) for c in row]) for row in chosen])
        estimate = unbiased_success_within(counts, [5, 5, 5], attempts)
        assert estimate == pytest.approx(expected)
    assert unbiased_success_within(counts, [5, 5, 4], 5) is None
    assert unbiased_success_within([], [], 1) is None


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    successes = rng.binomial(20, rng.beta(0.5, 4.5, 150))
    curve = fit_success(list(successes), [20] * 150, [1, 10, 100], resamples=30)
    assert curve is not None

    def likelihood(alpha: float, beta: float) -> float:
        return float(stats.betabinom.logpmf(successes, 20, alpha, beta).sum())

    best = likelihood(curve.alpha, curve.beta)
    for factor, other in itertools.product((0.97, 1.03), repeat=2):
        assert likelihood(curve.alpha * factor, curve.beta * other) < best
    for attempts, expected in ((1, 0.1000), (10, 0.4535), (100, 0.7979)):
        interval = curve.at[attempts]
        assert interval.low < interval.mean < interval.high  # type: ignore[operator]
        assert interval.low - 0.03 < expected < interval.high + 0.03  # type: ignore[operator]
    assert not curve.is_pooled


def test_a_grader_s_error_is_not_multiplied_by_the_attempts() -> None:
    # A model that is never broken, and a grader that errs in one of twenty answers.
    rng = np.random.default_rng(3)
    error = GraderError(950, 1000, 950, 1000)
    never = rng.binomial(20, 0.05, 100)
    raw = fit_success(list(never), [20] * 100, [20], resamples=20)
    corrected = fit_success(list(never), [20] * 100, [20], error=error, resamples=20)
    assert raw is not None
    assert corrected is not None
    assert raw.at[20].mean > 0.55  # 1 − .95^20 = .64
    assert corrected.at[20].mean < 0.15
    # A model whose chances are beta(.5, 4.5): .1 at one attempt, behind the grader's error too.
    true = rng.binomial(20, rng.beta(0.5, 4.5, 300))
    graded = rng.binomial(true, 0.95) + rng.binomial(20 - true, 0.05)
    broken = fit_success(list(graded), [20] * 300, [1, 10], error=error, resamples=5)
    assert broken is not None
    assert broken.at[1].mean == pytest.approx(0.1, abs=0.02)
    assert broken.at[10].mean == pytest.approx(0.4535, abs=0.08)


def test_what_has_no_maximum_is_not_fitted() -> None:
    assert fit_success([0, 1, 1], [1, 1, 1], [10]) is None  # one attempt each
    assert fit_success([0, 0, 0], [5, 5, 5], [10]) is None
    assert fit_success([5, 5, 5], [5, 5, 5], [10]) is None
    assert fit_success([3], [5], [10]) is None
    equal = fit_success([2, 2, 2, 2, 2, 2], [5] * 6, [1], resamples=2)
    assert equal is not None
    assert equal.is_pooled  # no prompt differs from another
    assert equal.at[1].mean == pytest.approx(0.4, abs=0.001)
    with pytest.raises(ValueError, match="hardly better"):
        fit_success([1, 2], [5, 5], [1], error=GraderError(1, 2, 1, 2))
