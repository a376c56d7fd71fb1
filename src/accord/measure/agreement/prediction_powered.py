"""A judge's rate over all rows, corrected by the rows that people have judged too."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import DataError
from accord.measure.statistics import (
    Floats,
    Interval,
    clustered_variance,
    normal_quantile,
    unseen_share,
)


def prediction_powered_mean(
    judge: ArrayLike,
    labelled_judge: ArrayLike,
    labelled_people: ArrayLike,
    *,
    weight: float | None = 1.0,
    confidence: float = 0.95,
    prompts: ArrayLike | None = None,
    labelled_prompts: ArrayLike | None = None,
) -> Interval:
    """People's mean, from N rows that only the judge scored and n rows that both scored.

    θ = λ·mean_N(f) + mean_n(y − λ·f), with variance λ²·var_N(f)/N + var_n(y − λ·f)/n and a normal
    interval (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023, with λ = `weight` = 1). With
    `weight=None`, λ is the one of least variance, cov_n(y, f)/((1 + n/N)·var(f)), in [0, 1]
    (Angelopoulos, Duchi and Zrnic 2023, PPI++): no wider than people's rows alone, up to noise. It
    holds for any judge, however biased, where the n rows are a random draw of all of them.

    Rows of one prompt (`prompts`, `labelled_prompts`) are one independent unit. Where λ = 1 and the
    judge equals people on all n rows, no error was seen, and n rows bound its share by
    1 − (α/2)^(1/n), which is added. Scores lie in [0, 1], and so do the bounds. Raises DataError
    for fewer than two labelled rows, no others, or scores outside of [0, 1].
    """
    f_all, f, y = (_scores(values) for values in (judge, labelled_judge, labelled_people))
    if len(f) != len(y) or len(y) < 2 or not len(f_all):
        raise DataError(
            f"People judged {len(y)} rows, of which the judge scored {len(f)}, and {len(f_all)} "
            f"rows have only the judge's score. Give two or more judged by both, and one or more "
            f"others."
        )
    lam = _least_variance(f_all, f, y) if weight is None else weight
    rectified = y - lam * f
    estimate = lam * float(f_all.mean()) + float(rectified.mean())
    variance = lam**2 * _variance_of_mean(f_all, prompts)
    variance += _variance_of_mean(rectified, labelled_prompts)
    half = normal_quantile(confidence) * math.sqrt(variance)
    units = len(y) if labelled_prompts is None else len(np.unique(np.asarray(labelled_prompts)))
    if np.ptp(rectified) == 0:
        half += unseen_share(units, confidence=confidence)
    return Interval(
        min(1.0, max(0.0, estimate)), max(0.0, estimate - half), min(1.0, estimate + half)
    )


def _scores(values: ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64).ravel()
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise DataError("A win rate needs scores from 0 to 1: 1 for a win, one half for a tie.")
    return scores


def _least_variance(f_all: Floats, f: Floats, y: Floats) -> float:
    variance = float(np.concatenate([f_all, f]).var())
    if variance == 0:
        return 0.0
    covariance = float(np.cov(y, f, ddof=1)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + len(f) / len(f_all)) * variance)))


def _variance_of_mean(values: Floats, prompts: ArrayLike | None) -> float:
    """The variance of the mean: cluster-robust by prompt where prompts are given."""
    residuals = values - values.mean()
    if prompts is not None:
        _, unit = np.unique(np.asarray(prompts), return_inverse=True)
        residuals = np.bincount(unit.ravel(), weights=residuals)
    if len(residuals) < 2:
        return 0.25  # one unit has no spread; a score in [0, 1] has a variance of at most this
    return clustered_variance(residuals, len(values))
