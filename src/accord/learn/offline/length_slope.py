"""How much a longer response wins by its length alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accord.errors import DataError
from accord.lm.packing import PromptGroup

TOLERANCE = 1e-10
STEPS = 200


def length_slope(groups: Sequence[PromptGroup]) -> float:
    """α̂, the log-odds that a token more wins: the maximum of Σ w·log σ(α·(|y_w| − |y_l|)).

    A Bradley-Terry model (Bradley & Terry 1952) with the length in tokens as its only feature;
    each group's pairs have the weight of one in all. Raises DataError where there is no maximum,
    since the longer response wins always, or never.
    """
    differences, weights = _differences(groups)
    if not differences.any():
        return 0.0
    if (differences >= 0).all() or (differences <= 0).all():
        wins = "longer" if (differences >= 0).all() else "shorter"
        raise DataError(
            f"In every pair of different lengths the {wins} response wins, so its length alone "
            f"explains all, and length_regularisation has no finite slope. Give more rows, set "
            f"length_slope yourself, or leave length_regularisation out."
        )
    # The scale of the differences is taken out, so that the first step is of the right size.
    scale = float(np.sqrt(np.average(differences**2, weights=weights)))
    return _maximum(differences / scale, weights) / scale


def _differences(groups: Sequence[PromptGroup]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens by which the better response is longer, and the weight, of each pair."""
    differences: list[float] = []
    weights: list[float] = []
    for group in groups:
        lengths = [len(r) for r in group.responses]
        found = [lengths[i] - lengths[j] for i, j in group.preference_pairs]
        differences += found
        weights += [1.0 / len(found) for _ in found]
    return np.array(differences, dtype=np.float64), np.array(weights)


def _maximum(x: np.ndarray, weights: np.ndarray) -> float:
    """Newton's method on the concave log-likelihood; a step that lowers it is halved."""

    def likelihood(slope: float) -> float:
        return -float((weights * np.logaddexp(0.0, -slope * x)).sum())

    slope, value = 0.0, likelihood(0.0)
    for _ in range(STEPS):
        lost = 1.0 / (1.0 + np.exp(slope * x))  # σ(−αx), the probability of what did not happen
        gradient = float((weights * x * lost).sum())
        curvature = float((weights * x**2 * lost * (1.0 - lost)).sum())
        step = gradient / curvature
        while likelihood(slope + step) < value and abs(step) > TOLERANCE:
            step /= 2
        slope, value = slope + step, likelihood(slope + step)
        if abs(step) <= TOLERANCE * max(1.0, abs(slope)):
            break
    return slope
