"""Kappas: Cohen's of two raters, Fleiss' of n, and Gwet's AC1, which skew does not collapse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from accord.measure.agreement.coefficients import (
    Coefficient,
    Disagreements,
    estimate,
    not_defined,
)
from accord.measure.agreement.ratings import (
    CodedRatings,
    Codes,
    ItemPatterns,
    find_patterns,
    resample_items,
)
from accord.measure.statistics import Floats

COHEN, FLEISS, AC1 = "Cohen's kappa", "Fleiss' kappa", "Gwet's AC1"


def cohen_kappa(
    ratings: CodedRatings,
    raters: tuple[object, object] | None = None,
    *,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Coefficient:
    """Cohen's kappa (Cohen 1960) of two raters on the items that both rated.

    κ = (p_o − p_e)/(1 − p_e), p_e = Σ_k p_1k p_2k. `raters` names the two where there are more.
    """
    if raters is None and len(ratings.raters) != 2:
        reason = f"there are {len(ratings.raters)} raters, and it compares two"
        return not_defined(COHEN, reason, items=len(ratings.items), ratings=len(ratings))
    first, second = raters or (ratings.raters[0], ratings.raters[1])
    columns = [_values_of(ratings, ratings.raters.index(name)) for name in (first, second)]
    return cohen_from_codes(
        columns[0],
        columns[1],
        len(ratings.values),
        rounds=rounds,
        confidence=confidence,
        seed=seed,
    )


def _values_of(ratings: CodedRatings, rater: int) -> Codes:
    """One rater's value of each item, −1 where there is none."""
    values = np.full(len(ratings.items), -1, dtype=np.int64)
    own_rows = ratings.rater == rater
    values[ratings.item[own_rows]] = ratings.value[own_rows]
    return values


def cohen_from_codes(
    first: Codes,
    second: Codes,
    categories: int,
    *,
    clusters: Codes | None = None,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Coefficient:
    """Cohen's kappa of two columns of codes, one entry an item, −1 for a missing one.

    `clusters` numbers the prompt (or other unit) that each item belongs to: the bootstrap then
    draws whole clusters. Items without both codes are left out.
    """
    both = (first >= 0) & (second >= 0)
    items = int(both.sum())
    if not items:
        return not_defined(COHEN, "no item is rated by both")
    cells = first[both] * categories + second[both]
    of_cluster = np.arange(items) if clusters is None else clusters[both]
    _, of_cluster = np.unique(of_cluster, return_inverse=True)
    if len(of_cluster) == int(of_cluster.max()) + 1:  # every item is a cluster of its own
        present, of_unit = np.unique(cells, return_inverse=True)
        table = np.zeros((len(present), categories**2))
        table[np.arange(len(present)), present] = 1.0
        units = csr_array(table)
        frequency = np.bincount(of_unit).astype(np.float64)
    else:
        shape = (int(of_cluster.max()) + 1, categories**2)
        units = csr_array((np.ones(items), (of_cluster, cells)), shape=shape)
        frequency, of_unit = np.ones(shape[0]), np.arange(shape[0])

    def statistic(frequency: Floats) -> Disagreements:
        tables = np.asarray((units.T @ frequency.T).T).reshape(-1, categories, categories)
        shares = tables / tables.sum(axis=(1, 2), keepdims=True)
        observed = 1 - np.trace(shares, axis1=1, axis2=2)
        expected = 1 - (shares.sum(axis=2) * shares.sum(axis=1)).sum(axis=1)
        return _without_rounding(observed), _without_rounding(expected)

    samples = resample_items(frequency, of_unit, rounds, np.random.default_rng(seed))
    result = estimate(
        COHEN, statistic, frequency, samples, ratings=2 * items, confidence=confidence
    )
    return replace(result, items=items)  # the bootstrap drew clusters of them


def _without_rounding(share: Floats) -> Floats:
    """Shares whose distance from 0 is a rounding error are 0."""
    return np.where(np.abs(share) < 1e-12, 0.0, share)


def fleiss_kappa(
    ratings: CodedRatings, *, rounds: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Coefficient:
    """Fleiss' kappa (Fleiss 1971) of n ratings of each item, not defined where n differs.

    κ = (P̄ − P̄_e)/(1 − P̄_e), P_i = Σ_j n_ij(n_ij − 1)/(n(n − 1)), P̄_e = Σ_j p_j².
    """
    patterns = find_patterns(ratings)
    sizes = np.unique(patterns.ratings)
    items, count = len(ratings.items), len(ratings)
    if not items:
        return not_defined(FLEISS, "there are no ratings")
    if len(sizes) > 1:
        reason = (
            f"the items have from {sizes[0]:.0f} to {sizes[-1]:.0f} ratings, and it needs the same "
            f"number of each; Krippendorff's alpha allows for missing ratings"
        )
        return not_defined(FLEISS, reason, items=items, ratings=count)
    if sizes[0] < 2:
        return not_defined(FLEISS, "no item has two ratings", items=items, ratings=count)
    agreeing = _agreement_within(patterns)

    def statistic(frequency: Floats) -> Disagreements:
        drawn = frequency.sum(axis=1)
        shares = patterns.totals(frequency) / (drawn * sizes[0])[:, None]
        observed = 1 - frequency @ agreeing / drawn
        return _without_rounding(observed), _without_rounding(1 - (shares**2).sum(axis=1))

    samples = resample_items(
        patterns.frequency, patterns.of_item, rounds, np.random.default_rng(seed)
    )
    return estimate(
        FLEISS, statistic, patterns.frequency, samples, ratings=count, confidence=confidence
    )


def gwet_ac1(
    ratings: CodedRatings, *, rounds: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Coefficient:
    """Gwet's AC1 (Gwet 2008, with missing ratings as in Gwet 2014, section 2.4).

    AC1 = (p_a − p_e)/(1 − p_e): p_a is the mean over items with two ratings or more of
    Σ_k r_ik(r_ik − 1)/(r_i(r_i − 1)), and p_e = Σ_k π_k(1 − π_k)/(q − 1) for q values, π_k the
    mean over all items of r_ik/r_i. The q values are the categories that were given, or those that
    occur.
    """
    patterns = find_patterns(ratings)
    items, count, categories = len(ratings.items), len(ratings), len(ratings.values)
    paired = patterns.ratings >= 2
    if not paired.any():
        return not_defined(AC1, "no item has two ratings", items=items, ratings=count)
    if categories < 2:
        reason = "every rating has the same value, and no other category was given"
        return not_defined(AC1, reason, items=items, ratings=count)
    agreeing = np.where(paired, _agreement_within(patterns), 0.0)
    shares = patterns.counts.multiply(1 / patterns.ratings[:, None]).tocsr()

    def statistic(frequency: Floats) -> Disagreements:
        compared = frequency @ paired
        with np.errstate(invalid="ignore"):
            observed = 1 - (frequency @ agreeing) / compared
        means = np.asarray((shares.T @ frequency.T).T) / frequency.sum(axis=1)[:, None]
        chance = (means * (1 - means)).sum(axis=1) / (categories - 1)
        expected = np.where(compared > 0, 1 - chance, np.nan)
        return _without_rounding(observed), expected

    samples = resample_items(
        patterns.frequency, patterns.of_item, rounds, np.random.default_rng(seed)
    )
    return estimate(
        AC1, statistic, patterns.frequency, samples, ratings=count, confidence=confidence
    )


def _agreement_within(patterns: ItemPatterns) -> Floats:
    """The share of agreeing pairs among an item's ratings, [P]; 0 with fewer than two."""
    sizes = patterns.ratings
    squares = np.asarray(patterns.counts.multiply(patterns.counts).sum(axis=1)).ravel()
    return np.asarray((squares - sizes) / np.maximum(sizes * (sizes - 1), 1))
