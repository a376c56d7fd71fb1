"""Krippendorff's alpha: any number of raters, missing ratings, four levels of measurement.

It is computed from how often items received each value, and never from the pairs of ratings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from accord.errors import DataError
from accord.measure.agreement.coefficients import (
    Coefficient,
    Disagreements,
    Statistic,
    estimate,
    not_defined,
)
from accord.measure.agreement.ratings import (
    CodedRatings,
    ItemPatterns,
    find_patterns,
    resample_items,
)
from accord.measure.statistics import Floats

Level = Literal["nominal", "ordinal", "interval", "ratio"]

MAX_RATIO_VALUES = 5000
BLOCK = 4_000_000  # numbers of a dense block: 32 MB


def krippendorff_alpha(
    ratings: CodedRatings,
    level: Level = "nominal",
    *,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Coefficient:
    """Krippendorff's alpha, 1 − D_o/D_e (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability").

    With m_u ratings of item u and n ratings of items that have two or more,
    D_o = 1/n · Σ_u 1/(m_u − 1) · Σ_{i≠j} δ²(x_ui, x_uj) and D_e = 1/(n(n − 1)) · Σ_{c,k} n_c n_k
    δ²(c, k). δ² is 1 for different values (nominal), (c − k)² (interval), ((c − k)/(c + k))²
    (ratio), or (R_c − R_k)² with R the midranks of the values among the n ratings (ordinal), which
    equals Krippendorff's sum of the counts between them.

    Ordinal takes the order of `ratings.values`; interval and ratio need numbers. Raises DataError
    where these are no numbers, or are negative for ratio.
    """
    name = f"Krippendorff's alpha ({level})"
    patterns = _pairable(find_patterns(ratings))
    count = int(patterns.frequency @ patterns.ratings)
    if not count:
        return not_defined(name, "no item has two ratings", items=len(ratings.items))
    statistic, largest = STATISTICS[level](patterns, ratings)
    samples = resample_items(
        patterns.frequency, patterns.of_item, rounds, np.random.default_rng(seed)
    )
    return estimate(
        name,
        statistic,
        patterns.frequency,
        samples,
        ratings=count,
        confidence=confidence,
        largest=largest,
    )


def _pairable(patterns: ItemPatterns) -> ItemPatterns:
    """The patterns with two ratings or more."""
    paired = patterns.ratings >= 2
    index = np.cumsum(paired) - 1
    of_item = index[patterns.of_item[paired[patterns.of_item]]]
    return ItemPatterns(patterns.counts[paired], patterns.frequency[paired], of_item)


def _nominal(patterns: ItemPatterns, ratings: CodedRatings) -> tuple[Statistic, float]:
    sizes = patterns.ratings
    squares = np.asarray(patterns.counts.multiply(patterns.counts).sum(axis=1)).ravel()
    within = (sizes**2 - squares) / (sizes - 1)

    def between(totals: Floats, n: Floats) -> Floats:
        return np.asarray(n**2 - (totals**2).sum(axis=1))

    return _fixed_distances(patterns, within, between), 1.0


def _interval(patterns: ItemPatterns, ratings: CodedRatings) -> tuple[Statistic, float]:
    values = _numbers(ratings, "interval")
    values = values - values.mean()  # distances stay, and sums of squares lose no digits
    within = _squared_distances(patterns, values[:, None])[:, 0] / (patterns.ratings - 1)

    def between(totals: Floats, n: Floats) -> Floats:
        return np.asarray(2 * (n * (totals @ values**2) - (totals @ values) ** 2))

    return _fixed_distances(patterns, within, between), float(np.ptp(values)) ** 2


def _ratio(patterns: ItemPatterns, ratings: CodedRatings) -> tuple[Statistic, float]:
    values = _numbers(ratings, "ratio")
    if values.min() < 0:
        raise DataError(
            f"A ratio scale has no negative values, and {values.min():g} is one of the ratings. "
            f"Use level=interval."
        )
    if len(values) > MAX_RATIO_VALUES:
        raise DataError(
            f"The ratings have {len(values):,} different values; alpha for ratio data takes up to "
            f"{MAX_RATIO_VALUES:,}. Round them, or use level=interval."
        )
    sums = values[:, None] + values[None, :]
    distances = ((values[:, None] - values[None, :]) / np.where(sums > 0, sums, 1.0)) ** 2
    within = np.empty(len(patterns.frequency))
    block = max(1, BLOCK // len(values))
    for start in range(0, len(within), block):
        dense = patterns.counts[start : start + block].toarray()
        within[start : start + block] = ((dense @ distances) * dense).sum(axis=1)
    within /= patterns.ratings - 1

    def between(totals: Floats, n: Floats) -> Floats:
        return np.asarray(((totals @ distances) * totals).sum(axis=1))

    return _fixed_distances(patterns, within, between), float(distances.max())


def _ordinal(patterns: ItemPatterns, ratings: CodedRatings) -> tuple[Statistic, float]:
    """The distances depend on the ranks, and so differ from sample to sample."""
    sizes = patterns.ratings
    block = max(1, BLOCK // len(sizes))

    def statistic(frequency: Floats) -> Disagreements:
        totals = patterns.totals(frequency)
        n = totals.sum(axis=1)
        midranks = totals.cumsum(axis=1) - totals / 2 - n[:, None] / 2
        within = np.empty(len(frequency))
        for start in range(0, len(frequency), block):
            part = slice(start, start + block)
            squared = _squared_distances(patterns, midranks[part].T) / (sizes - 1)[:, None]
            within[part] = (frequency[part] * squared.T).sum(axis=1)
        first, second = (totals * midranks).sum(axis=1), (totals * midranks**2).sum(axis=1)
        return _disagreements(within, 2 * (n * second - first**2), n)

    all_ratings = float(patterns.frequency @ sizes)
    return statistic, all_ratings**2


STATISTICS: dict[Level, Callable[[ItemPatterns, CodedRatings], tuple[Statistic, float]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
    "ratio": _ratio,
}
"""The disagreements at each level, and the most that one item can disagree."""


def _fixed_distances(
    patterns: ItemPatterns, within: Floats, between: Callable[[Floats, Floats], Floats]
) -> Statistic:
    """The statistic of distances that do not depend on the sample: `within` [P] is the sum over
    the pairs of an item, divided by m − 1; `between` that over all pairs of values."""

    def statistic(frequency: Floats) -> Disagreements:
        totals = patterns.totals(frequency)
        n = totals.sum(axis=1)
        return _disagreements(frequency @ within, between(totals, n), n)

    return statistic


def _disagreements(within: Floats, between: Floats, n: Floats) -> Disagreements:
    observed, expected = within / n, between / (n * (n - 1))
    tiny = 1e-12 * np.abs(expected).max(initial=0.0)
    return np.where(observed < tiny, 0.0, observed), np.where(expected < 1e-300, 0.0, expected)


def _squared_distances(patterns: ItemPatterns, scores: Floats) -> Floats:
    """Σ_{i≠j} (s_i − s_j)² over the ordered pairs of each pattern's ratings [P, B], for the scores
    [V, B] of the values."""
    first, second = patterns.counts @ scores, patterns.counts @ scores**2
    return np.asarray(2 * np.maximum(patterns.ratings[:, None] * second - first**2, 0.0))


def _numbers(ratings: CodedRatings, level: Level) -> Floats:
    try:
        values = np.array(ratings.values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"Alpha for {level} data needs numbers, and one of the ratings is "
            f"{next(v for v in ratings.values if not isinstance(v, int | float))!r}. Use "
            f"level=nominal or ordinal."
        ) from None
    if not np.isfinite(values).all():
        raise DataError(f"Alpha for {level} data needs finite numbers. Correct the ratings.")
    return values
