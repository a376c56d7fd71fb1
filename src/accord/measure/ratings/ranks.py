"""Ranks of models with intervals that hold for all models at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accord.measure.statistics import Floats


@dataclass(frozen=True, slots=True)
class RankIntervals:
    """The best and the worst rank [models] that the battles allow each model, 1 first, and which of
    two models is surely better: `above` [models, models].

    `needed` [models, models] is how many times the battles it would take to separate a pair at the
    observed difference: below 1 where they do, infinite where there is none.
    """

    best: NDArray[np.int64]
    worst: NDArray[np.int64]
    above: NDArray[np.bool_]
    needed: Floats


def rank_intervals(ratings: Floats, drawn: Floats, confidence: float) -> RankIntervals:
    """Simultaneous intervals of the ranks from bootstrap ratings `drawn` [rounds, models].

    Every difference of two models gets the same multiple of its standard deviation, such that in a
    share `confidence` of the rounds all of them lie within it at once. A model's best rank is 1 and
    the number of models that are surely better; its worst leaves those that are surely worse behind
    it (Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for ranks", §3). A round that
    determines no difference counts as beyond every multiple.
    """
    models = len(ratings)
    i, j = np.triu_indices(models, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = ratings[i] - ratings[j]
        deviation = drawn[:, i] - drawn[:, j] - difference
        known = np.isfinite(deviation)
        deviation = np.where(known, np.abs(deviation), 0.0)
        spread = np.sqrt((deviation**2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        scaled = np.where(known, deviation / np.where(spread > 0, spread, 1.0), np.inf)
        largest = scaled.max(axis=1, initial=0.0)
        multiple = float(np.quantile(largest, confidence, method="higher"))
        width = np.where(np.isfinite(difference), multiple * spread, np.inf)
        needed_of_pair = np.where(difference == 0, np.inf, (width / difference) ** 2)
    above, needed = np.zeros((models, models), dtype=np.bool_), np.full((models, models), np.inf)
    above[i, j], above[j, i] = difference > width, -difference > width
    needed[i, j] = needed[j, i] = np.nan_to_num(needed_of_pair, nan=np.inf, posinf=np.inf)
    return RankIntervals(1 + above.sum(axis=0), models - above.sum(axis=1), above, needed)
