"""Which models the battles do not distinguish, how many more would, and which to hold next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from accord.measure.ratings.needed import POWER, SIGNIFICANCE
from accord.measure.statistics import Floats

MOST_BATTLES = 1e9  # beyond this the two are equal for all that can be known


@dataclass(frozen=True, slots=True)
class UnclearPair:
    """Two models whose order is not certain, the higher rated first, and how many more battles
    between them would show it if the difference stays as it is; None where none would."""

    better: str
    worse: str
    elo_difference: float
    more_battles: int | None


def battles_needed(
    difference: float, variance: float, tie_share: float, *, alpha: float = SIGNIFICANCE
) -> int | None:
    """How many more direct battles distinguish two strengths, at a power of 80%.

    One battle adds information w²/v to the difference d: w = p(1 − p) with p = σ(d), and
    v = w − t/4 is the variance of its score where a share t of battles are ties. The error must
    fall to s = |d|/(z_{1−α/2} + z_{power}), so n = (1/s² − 1/variance)·v/w². With a first battle
    still to come (infinite variance) and small d this is `units_needed`'s number.
    """
    if abs(difference) < 1e-12:
        return None
    p = float(special.expit(difference))
    weight = p * (1 - p)
    v = max(weight - tie_share / 4, weight / 100)
    z = float(special.ndtri(1 - alpha / 2) + special.ndtri(POWER))
    number = ((z / difference) ** 2 - (1 / variance if variance else math.inf)) * v / weight**2
    if number > MOST_BATTLES:
        return None
    return max(1, math.ceil(number))


def unclear_pairs(
    names: Sequence[str],
    strengths: Floats,
    covariance: Floats,
    above: NDArray[np.bool_],
    tie_share: float,
    elo_per_unit: float,
    *,
    confidence: float = 0.95,
) -> list[UnclearPair]:
    """The pairs of which neither is surely above the other (`above` [models, models]), those that
    take the fewest battles first. All pairs are to be distinguished at once (Bonferroni), at the
    level `confidence`."""
    unclear = []
    alpha = (1 - confidence) / max(1, len(names) * (len(names) - 1) // 2)
    for i in range(len(names)):
        for j in range(len(names)):
            ahead = strengths[i] > strengths[j] or (strengths[i] == strengths[j] and i < j)
            if i == j or above[i, j] or above[j, i] or not ahead:
                continue
            difference = float(strengths[i] - strengths[j])
            variance = float(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
            more = battles_needed(difference, variance, tie_share, alpha=alpha)
            unclear.append(UnclearPair(names[i], names[j], elo_per_unit * difference, more))
    return sorted(unclear, key=lambda p: math.inf if p.more_battles is None else p.more_battles)
