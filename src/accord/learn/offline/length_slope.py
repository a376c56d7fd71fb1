"""By how much each token of length raises a response's odds of winning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accord.errors import DataError
from accord.lm.packing import PromptGroup

TOLERANCE = 1e-10  # of the slope, relative where it is above 1
MAX_STEPS = 200


def length_slope(groups: Sequence[PromptGroup]) -> float:
    """α̂, the log-odds of winning that each further token adds: the maximiser of
    Σ w·log σ(α·(|y_w| − |y_l|)) over all pairs, with |y| in tokens.

    It is a Bradley-Terry model (Bradley & Terry 1952) with the length as its only feature. The
    weights w of a group's pairs sum to 1. Raises DataError where there is no maximum, because the
    longer response always wins, or always loses.
    """
    differences, weights = _differences(groups)
    if not differences.any():
        return 0.0
    if (differences >= 0).all() or (differences <= 0).all():
        winner = "longer" if (differences >= 0).all() else "shorter"
        raise DataError(
            f"In every pair of different lengths the {winner} response wins, so its length alone "
            f"explains all, and length_regularisation has no finite slope. Give more rows, set "
            f"length_slope yourself, or leave length_regularisation out."
        )
    # Differences are scaled to mean square 1, so that the first step has the right size.
    scale = float(np.sqrt(np.average(differences**2, weights=weights)))
    return _maximise_likelihood(differences / scale, weights) / scale


def _differences(groups: Sequence[PromptGroup]) -> tuple[np.ndarray, np.ndarray]:
    """For each pair, the tokens by which the better response is longer, and its weight."""
    differences: list[float] = []
    weights: list[float] = []
    for group in groups:
        lengths = [len(r) for r in group.responses]
        pairs = group.weighted_pairs
        differences += [lengths[i] - lengths[j] for i, j, _ in pairs]
        weights += [weight for _, _, weight in pairs]
    return np.array(differences, dtype=np.float64), np.array(weights)


def _maximise_likelihood(x: np.ndarray, weights: np.ndarray) -> float:
    """Newton's method on the concave log-likelihood; a step that lowers it is halved."""

    def log_likelihood(slope: float) -> float:
        return -float((weights * np.logaddexp(0.0, -slope * x)).sum())

    slope, value = 0.0, log_likelihood(0.0)
    for _ in range(MAX_STEPS):
        upset = 1.0 / (1.0 + np.exp(slope * x))  # σ(−αx), the probability of the opposite outcome
        gradient = float((weights * x * upset).sum())
        curvature = float((weights * x**2 * upset * (1.0 - upset)).sum())
        step = gradient / curvature
        while log_likelihood(slope + step) < value and abs(step) > TOLERANCE:
            step /= 2
        slope, value = slope + step, log_likelihood(slope + step)
        if abs(step) <= TOLERANCE * max(1.0, abs(slope)):
            break
    return slope
