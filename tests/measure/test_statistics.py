"""Means and their intervals, against hand computations, tables and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from accord.measure.statistics import (
    Interval,
    bootstrap_interval,
    clustered_interval,
    clustered_proportion,
    difference_interval,
    mean_interval,
    paired_shares_interval,
    proportion_interval,
)


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_mean_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, error 1/√3, t(2 degrees, 97.5%) = 4.30265 (tables).
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652730 / math.sqrt(3)
    assert interval.mean == 2
    assert interval.low == pytest.approx(2 - half)
    assert interval.high == pytest.approx(2 + half)


def test_one_value_has_no_interval_and_no_value_no_mean() -> None:
    assert mean_interval([7.0]) == Interval(7.0, None, None)
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([]).to_json() is None
    assert mean_interval([7.0]).to_json() == {"mean": 7.0, "low": None, "high": None}
    assert clustered_interval([[1.0, 3.0]]) == Interval(2.0)
    assert math.isnan(clustered_interval([[], []]).mean)


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="value 1 is nan; an average needs finite values"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="value 0 is inf"):
        clustered_interval([[1.0], [math.inf]])


def test_clustered_with_one_value_each_is_the_plain_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    clustered, plain = clustered_interval([[v] for v in values]), mean_interval(values)
    assert clustered.mean == pytest.approx(plain.mean)
    assert clustered.low == pytest.approx(plain.low)
    assert clustered.high == pytest.approx(plain.high)


def test_repeating_every_response_does_not_narrow_the_clustered_interval() -> None:
    values = np.random.default_rng(1).normal(size=20)
    single, repeated = (
        clustered_interval([[v] for v in values]),
        clustered_interval([[v] * 9 for v in values]),
    )
    assert repeated.low == pytest.approx(single.low)
    assert repeated.high == pytest.approx(single.high)
    low, high = bounds(repeated)
    naive_low, naive_high = bounds(mean_interval(np.repeat(values, 9)))
    assert naive_high - naive_low < 0.5 * (high - low)


def test_unequal_clusters_by_hand() -> None:
    # Clusters (0, 0, 3) and (1): mean 1; residual sums 0 and 0, so the interval has no width.
    assert clustered_interval([[0.0, 0.0, 3.0], [1.0]]) == Interval(1.0, 1.0, 1.0)
    # (0, 0) and (3): mean 1, residual sums −2 and 2; variance 2/1·8/9, t(1, 97.5%) = 12.7062.
    interval = clustered_interval([[0.0, 0.0], [3.0]])
    assert bounds(interval)[1] - interval.mean == pytest.approx(12.706204736 * math.sqrt(16 / 9))


def test_clustered_intervals_cover_the_truth_and_naive_ones_do_not() -> None:
    # 40 prompts of 5 responses whose prompts share half of the variance: at 95% the clustered
    # interval should miss the true mean 0 about 5% of the time, the naive one far more often.
    rng = np.random.default_rng(2)
    clustered = naive = 0
    for _ in range(400):
        data = rng.normal(size=(40, 1)) + rng.normal(size=(40, 5))
        low, high = bounds(clustered_interval(list(data)))
        clustered += low <= 0 <= high
        low, high = bounds(mean_interval(data))
        naive += low <= 0 <= high
    assert 0.92 <= clustered / 400 <= 0.98
    assert naive / 400 < 0.85


def test_bootstrap_agrees_with_student_where_data_are_normal() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=400)
    bootstrapped = bootstrap_interval(values, rounds=4000, rng=np.random.default_rng(4))
    student = mean_interval(values)
    assert bootstrapped.mean == student.mean
    assert bootstrapped.low == pytest.approx(student.low, abs=0.02)
    assert bootstrapped.high == pytest.approx(student.high, abs=0.02)


def test_bootstrap_is_a_function_of_the_seed_and_leaves_one_value_without_bounds() -> None:
    values = [1.0, 5.0, 2.0]
    first, second = (bootstrap_interval(values, rng=np.random.default_rng(9)) for _ in range(2))
    assert first == second
    assert bootstrap_interval([2.0], rng=np.random.default_rng(0)) == Interval(2.0)
    assert bootstrap_interval(values, rounds=0, rng=np.random.default_rng(0)).low is None


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (199, 200)])
def test_a_share_has_scipys_exact_interval(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="exact")
    interval = proportion_interval(successes, trials)
    assert interval.low == pytest.approx(expected.low)
    assert interval.high == pytest.approx(expected.high)


def test_a_share_at_the_edges_has_a_width() -> None:
    # 0 of n: (1 − p)ⁿ = .025 at the upper bound, so p = 1 − .025^(1/20) = .168.
    none, all_ = proportion_interval(0, 20), proportion_interval(20, 20)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert all_.high == 1
    assert all_.low == pytest.approx(0.025 ** (1 / 20))
    assert math.isnan(proportion_interval(0, 0).mean)
    with pytest.raises(ValueError, match="3 successes in 2 trials is not a share"):
        proportion_interval(3, 2)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("ties", [0.0, 0.4])
def test_the_exact_interval_covers_at_least_as_often_as_it_promises(
    share: float, ties: float
) -> None:
    # A tie is one half: a value between 0 and 1, which varies less than a win and a loss.
    rng, covered = np.random.default_rng(5), 0
    mean = ties / 2 + (1 - ties) * share
    for _ in range(1000):
        values = np.where(rng.random(24) < ties, 0.5, rng.random(24) < share)
        low, high = bounds(proportion_interval(float(values.sum()), 24))
        covered += low <= mean <= high
    assert covered >= 940  # 950 less 1.5 standard errors of the simulation


def test_a_rare_share_of_clustered_responses_is_covered() -> None:
    # 20 prompts with 4 responses each; a prompt's responses share its own rate, on average 4%.
    # Student's interval, clipped at 0, misses far more often, always with a bound too low.
    rng, exact, student = np.random.default_rng(6), 0, 0
    for _ in range(1000):
        rates = rng.beta(0.4, 9.6, size=20)
        values = [list((rng.random(4) < rate).astype(float)) for rate in rates]
        low, high = bounds(clustered_proportion(values))
        exact += low <= 0.04 <= high
        low, high = bounds(clustered_interval(values))
        student += low <= 0.04 <= high
    assert exact >= 940
    assert student < 900


def test_a_difference_by_hand() -> None:
    # Half-widths 3 and 4 add up to 5 as variances do.
    difference = difference_interval(Interval(10, 7, 13), Interval(2, -2, 6))
    assert difference == Interval(8, 3, 13)
    # Asymmetric: below a by 1 and above b by 0 gives 1; above a by 3 and below b by 4 gives 5.
    assert difference_interval(Interval(0, -1, 3), Interval(0, -4, 0)) == Interval(0, -1, 5)


def test_a_difference_with_an_open_end() -> None:
    assert difference_interval(Interval(5, 4, None), Interval(1, 1, 1)) == Interval(4, 3, None)
    assert difference_interval(Interval(5), Interval(1)) == Interval(4)
    assert difference_interval(Interval(5), Interval(1, 0, 3)) == Interval(4, 2, 5)


def test_the_rise_of_a_paired_share_by_hand() -> None:
    """Of 20 prompts six rose and four fell: .3 − .2, each share with its exact interval from the
    beta distribution, joined with the correlation of a multinomial's shares (Zou and Donner 2008,
    eq. 11): −√(.3·.2/(.7·.8)) = −.327, so that the interval is wider than without it."""
    before = [[0.0]] * 6 + [[1.0]] * 4 + [[0.0]] * 10
    after = [[1.0]] * 6 + [[0.0]] * 4 + [[0.0]] * 10
    low_6, high_6 = stats.beta.ppf(0.025, 6, 15), stats.beta.ppf(0.975, 7, 14)
    low_4, high_4 = stats.beta.ppf(0.025, 4, 17), stats.beta.ppf(0.975, 5, 16)
    r = math.sqrt(0.3 * 0.2 / (0.7 * 0.8))

    def reach(a: float, b: float) -> float:
        return math.sqrt(a * a + b * b + 2 * r * a * b)

    interval = paired_shares_interval(before, after)
    assert interval.mean == pytest.approx(0.1)
    assert interval.low == pytest.approx(0.1 - reach(0.3 - low_6, high_4 - 0.2))
    assert interval.high == pytest.approx(0.1 + reach(high_6 - 0.3, 0.2 - low_4))
    # All rose: no share is left to vary, and the bounds stay within [−1, 1].
    whole = paired_shares_interval([[0.0]] * 20, [[1.0]] * 20)
    assert (whole.mean, whole.high) == (1.0, 1.0)
    assert whole.low is not None
    assert 0.6 < whole.low < 0.9
