"""Means and shares with confidence intervals.

A bound that can't be computed is None, never a made-up number: one value has no spread, and an
infinite bound is open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the bounds of its confidence interval; a bound that is unknown is None.

    No data gives a mean of NaN, not 0.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None] | None:
        """`{mean, low, high}` for a JSON file; None (null) where there was no data."""
        if not math.isfinite(self.mean):
            return None
        return {"mean": self.mean, "low": self.low, "high": self.high}


NO_DATA = Interval(math.nan)


def finite_or_none(value: float) -> float | None:
    """The value as JSON can hold it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of independent values with Student's t interval.

    One value has no interval. Raises ValueError when a value is not finite.
    """
    numbers = _finite(values)
    if numbers.size == 0:
        return NO_DATA
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Interval(mean)
    error = float(numbers.std(ddof=1)) / math.sqrt(numbers.size)
    return _student(mean, error, numbers.size - 1, confidence)


def clustered_interval(
    values_by_prompt: Sequence[ArrayLike], *, confidence: float = 0.95
) -> Interval:
    """The mean of all values with an interval that takes only the prompts as independent.

    Responses to one prompt resemble each other, so K of them carry less information than K
    prompts. The variance is the cluster-robust variance of a ratio of sums (Liang and Zeger 1986;
    Cameron and Miller 2015, eq. 11): G/(G−1)·Σ_g (Σ_{i∈g} (y_i − ȳ))² / n², with t of G−1 degrees
    of freedom for G prompts. With one value for each prompt it equals `mean_interval`. Prompts
    without a value are left out.
    """
    clusters = [array for array in (_finite(values) for values in values_by_prompt) if array.size]
    if not clusters:
        return NO_DATA
    count = sum(array.size for array in clusters)
    mean = sum(float(array.sum()) for array in clusters) / count
    groups = len(clusters)
    if groups == 1:
        return Interval(mean)
    error = math.sqrt(_variance_of_clusters(clusters, mean))
    return _student(mean, error, groups - 1, confidence)


def clustered_ratio(sums: ArrayLike, counts: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Σ sums / Σ counts with the interval of `clustered_interval`, from the sum of each cluster's
    values and their number (G,): for values too many to hold, such as one a token.

    Clusters without a value are left out. Raises ValueError when a sum is not finite.
    """
    totals, sizes = _finite(sums), _finite(counts)
    totals, sizes = totals[sizes > 0], sizes[sizes > 0]
    if totals.size == 0:
        return NO_DATA
    count = float(sizes.sum())
    mean = float(totals.sum()) / count
    if totals.size == 1:
        return Interval(mean)
    error = math.sqrt(clustered_variance(totals - mean * sizes, count))
    return _student(mean, error, totals.size - 1, confidence)


def bootstrap_interval(
    values: ArrayLike,
    *,
    rounds: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """The mean with the percentile bootstrap's interval (Efron 1979), for values far from normal.

    For clustered data, pass one mean a cluster. One value, or no rounds, has no interval.
    """
    numbers = _finite(values)
    if numbers.size == 0:
        return NO_DATA
    mean = float(numbers.mean())
    if numbers.size == 1 or rounds == 0:
        return Interval(mean)
    means = np.empty(rounds)
    block = max(1, 4_000_000 // numbers.size)  # keeps the drawn values under some 32 MB
    for start in range(0, rounds, block):
        stop = min(rounds, start + block)
        drawn = rng.integers(0, numbers.size, size=(stop - start, numbers.size))
        means[start:stop] = numbers[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def proportion_interval(successes: float, trials: float, *, confidence: float = 0.95) -> Interval:
    """A share with its exact interval (Clopper and Pearson 1934), which covers the true share at
    least as often as it promises, at 0 and 1 too: 0 of 20 may be as much as 17%.

    `successes` may be fractional where a tie counts half: values between 0 and 1 vary less than
    successes of the same mean, so the interval is only wider than needed. No trials give a NaN
    mean. Raises ValueError where that is no share.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is not a share")
    if trials == 0:
        return NO_DATA
    tail, failures = (1 - confidence) / 2, trials - successes
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return Interval(successes / trials, float(low), float(high))


def unseen_share(trials: float, *, confidence: float = 0.95) -> float:
    """The largest share of which no case may be seen in so many trials: the upper bound of
    `proportion_interval(0, trials)`, 1 − (α/2)^(1/n)."""
    return 1 - ((1 - confidence) / 2) ** (1 / trials)


def clustered_proportion(
    values_by_prompt: Sequence[ArrayLike], *, confidence: float = 0.95
) -> Interval:
    """A share from values in [0, 1], with the prompts as the independent units.

    With one value for each prompt, or where all values agree, the interval is the exact one over
    prompts. Otherwise it is the exact one of as many trials as would have the variance of
    `clustered_interval` (Korn and Graubard 1998): n* = p(1 − p)/V · (t_{n−1}/t_{G−1})² for n
    values of G prompts, and no more than n.
    """
    prompts = [array for array in (_finite(values) for values in values_by_prompt) if array.size]
    if not prompts:
        return NO_DATA
    flat = np.concatenate(prompts)
    if flat.min() < 0 or flat.max() > 1:
        raise ValueError(f"a share needs values in [0, 1], not {flat.min()} to {flat.max()}")
    groups, count = len(prompts), len(flat)
    if count == groups or flat.min() == flat.max():
        share = sum(float(array.mean()) for array in prompts)
        return proportion_interval(min(share, groups), groups, confidence=confidence)
    mean = float(flat.mean())
    if groups == 1:
        return Interval(mean)
    variance = _variance_of_clusters(prompts, mean)
    upper = 0.5 + confidence / 2
    narrowed = float(special.stdtrit(count - 1, upper) / special.stdtrit(groups - 1, upper)) ** 2
    trials = mean * (1 - mean) / variance * narrowed if variance else math.inf
    trials = max(1.0, min(trials, float(count)))
    interval = proportion_interval(mean * trials, trials, confidence=confidence)
    return Interval(mean, interval.low, interval.high)


def difference_interval(a: Interval, b: Interval) -> Interval:
    """a − b from two intervals, by the method of variance estimates recovery (Zou and Donner 2008).

    Each bound lies √((a − a_low)² + (b_high − b)²) from the difference, which keeps asymmetric
    intervals asymmetric. Exact for independent normal means; too wide, never too narrow, where the
    two are positively correlated, as scores on the same prompts are. An unknown bound stays
    unknown; a value without any bound counts as exact only if the other value has a bound.
    """
    difference = a.mean - b.mean
    if a.low is a.high is b.low is b.high is None:
        return Interval(difference)
    a, b = _exact_without_bounds(a), _exact_without_bounds(b)
    low = high = None
    if a.low is not None and b.high is not None:
        low = difference - math.hypot(a.mean - a.low, b.high - b.mean)
    if a.high is not None and b.low is not None:
        high = difference + math.hypot(a.high - a.mean, b.mean - b.low)
    return Interval(difference, low, high)


def paired_shares_interval(
    before: Sequence[ArrayLike], after: Sequence[ArrayLike], *, confidence: float = 0.95
) -> Interval:
    """How much a share rose, from values in [0, 1] before and after on the same prompts.

    With dᵢ the difference of the means of prompt i, the rise is p₁ − p₂ for the mean p₁ of
    max(dᵢ, 0) and p₂ of max(−dᵢ, 0). Each has its exact interval (`clustered_proportion`). They
    are joined by the method of variance estimates recovery for correlated estimates (Zou and
    Donner 2008, eq. 11), with the correlation of a multinomial's shares,
    −√(p₁p₂/((1 − p₁)(1 − p₂))). So the interval has a width where nothing changed: no change in 20
    prompts may be one of 17%. Prompts without a value on either side are left out. Raises
    ValueError for values outside [0, 1].
    """
    pairs = zip(before, after, strict=True)
    means = [
        (np.mean(_finite(a)), np.mean(_finite(b))) for a, b in pairs if np.size(a) * np.size(b)
    ]
    differences = [float(b - a) for a, b in means]
    rises = clustered_proportion([[max(d, 0.0)] for d in differences], confidence=confidence)
    falls = clustered_proportion([[max(-d, 0.0)] for d in differences], confidence=confidence)
    if not differences or rises.low is None or rises.high is None:
        return NO_DATA
    assert falls.low is not None
    assert falls.high is not None
    p, q = rises.mean, falls.mean
    correlation = -math.sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else -1.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(a**2 + b**2 - 2 * correlation * a * b)

    low = p - q - reach(p - rises.low, falls.high - q)
    high = p - q + reach(rises.high - p, q - falls.low)
    return Interval(p - q, max(-1.0, low), min(1.0, high))


def normal_quantile(confidence: float) -> float:
    """The z for which a standard normal variable lies in [−z, z] with this probability."""
    return float(special.ndtri(0.5 + confidence / 2))


def clustered_variance(residuals: Floats, count: float) -> float:
    """The cluster-robust variance of the mean of `count` values, from the sum of the residuals of
    each of two clusters or more (see `clustered_interval`)."""
    groups = len(residuals)
    return groups / (groups - 1) * float((residuals**2).sum()) / count**2


def _variance_of_clusters(clusters: Sequence[Floats], mean: float) -> float:
    residuals = np.array([float((array - mean).sum()) for array in clusters])
    return clustered_variance(residuals, sum(array.size for array in clusters))


def _student(mean: float, error: float, degrees: int, confidence: float) -> Interval:
    half = float(special.stdtrit(degrees, 0.5 + confidence / 2)) * error
    return Interval(mean, mean - half, mean + half)


def _exact_without_bounds(value: Interval) -> Interval:
    if value.low is None and value.high is None:
        return Interval(value.mean, value.mean, value.mean)
    return value


def _finite(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(numbers).all():
        index = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(f"value {index} is {numbers[index]}; an average needs finite values")
    return numbers
