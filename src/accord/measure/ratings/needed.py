"""How many more judgements it would take to distinguish two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special

SIGNIFICANCE, POWER = 0.05, 0.8


def units_needed(
    scores: Sequence[float], *, significance: float = SIGNIFICANCE, power: float = POWER
) -> int | None:
    """How many units (items) in all distinguish a mean score from a half, if it stays as it is.

    `scores` are one model's, per unit: 1 for a win, 0 for a loss, a half for a tie, or the mean of
    several votes. With the mean m and variance v, n = ((z_{1−α/2}·σ₀ + z_{1−β}·√v) / (m − ½))²,
    where σ₀² = v + (m − ½)² is the variance about a half: the sample size of a two-sided test at
    this power (Fleiss, Levin and Paik 2003, eq. 2.9 for a share). None where the mean is a half, as
    no number would do, or where there are no scores.
    """
    if not scores:
        return None
    mean = sum(scores) / len(scores)
    difference = abs(mean - 0.5)
    if difference < 1e-12:
        return None
    variance = sum((score - mean) ** 2 for score in scores) / len(scores)
    about_half = math.sqrt(variance + difference**2)
    z_test, z_power = special.ndtri(1 - significance / 2), special.ndtri(power)
    return math.ceil(
        float(((z_test * about_half + z_power * math.sqrt(variance)) / difference) ** 2)
    )
