"""Intervals of Bradley-Terry ratings: a bootstrap of counts, and the sandwich estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from accord.measure.ratings.battles import Counts
from accord.measure.ratings.bradley_terry import Labels, components, fit_strengths, relative_to
from accord.measure.ratings.elo import ELO_PER_NAT, SCORE, to_elo
from accord.measure.statistics import Floats, normal_quantile


def bootstrap_ratings(
    counts: Counts,
    names: Sequence[str],
    anchors: Labels,
    *,
    pseudo: Floats,
    rounds: int,
    seed: int,
) -> tuple[Floats, int]:
    """Ratings [rounds, models] from multinomial counts, and how many rounds had no finite fit.

    Each round draws as many battles as were given, with the probabilities of battles and pseudo-
    battles (`pseudo`, [models, models]) together, and adds the pseudo-battles again. The cost does
    not depend on the number of battles. A rating is ±inf or NaN where its round determines none.
    """
    weights, cells = _cells(counts, names, pseudo)
    total = sum(counts.values())
    rng = np.random.default_rng(seed)
    models = len(names)
    drawn = np.empty((rounds, models))
    degenerate = 0
    block = max(1, 1_000_000 // models**2)  # some ten arrays of 8 MB at a time
    for start in range(0, rounds, block):
        stop = min(rounds, start + block)
        times = rng.multinomial(total, weights / weights.sum(), size=stop - start)
        scores = (times @ cells).reshape(-1, models, models) + pseudo
        labels = components(scores)
        strengths = fit_strengths(scores, labels)
        for i in range(stop - start):
            drawn[start + i] = to_elo(relative_to(strengths[i], scores[i], labels[i], anchors))
        degenerate += int((labels.max(axis=1) > 0).sum())
    return drawn, degenerate


def percentiles(drawn: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The bounds at level `confidence` over rounds [rounds, models], as order statistics.

    A NaN, where a round determines no rating, widens the interval at both ends.
    """
    tail = (1 - confidence) / 2
    lows = np.where(np.isnan(drawn), -np.inf, drawn)
    highs = np.where(np.isnan(drawn), np.inf, drawn)
    return (
        np.quantile(lows, tail, axis=0, method="lower"),
        np.quantile(highs, 1 - tail, axis=0, method="higher"),
    )


def sandwich_half_widths(covariance: Floats, anchors: Labels, confidence: float) -> Floats:
    """Half the width of each rating's normal interval, relative to the anchors' mean, in Elo."""
    contrast = np.eye(len(covariance))
    contrast[:, anchors] -= 1 / len(anchors)
    variance = np.einsum("ij,jk,ik->i", contrast, covariance, contrast)
    return normal_quantile(confidence) * ELO_PER_NAT * np.sqrt(np.clip(variance, 0, None))


def _cells(counts: Counts, names: Sequence[str], pseudo: Floats) -> tuple[Floats, csr_array]:
    """The cells of the multinomial: the weight of each, and the scores that it adds
    [cells, models²]."""
    index = {name: i for i, name in enumerate(names)}
    models = len(names)
    weights: list[float] = []
    entries: list[tuple[int, int, float]] = []
    for (a, b, outcome), count in counts.items():
        cell, score = len(weights), SCORE[outcome]
        weights.append(count)
        entries.append((cell, index[a] * models + index[b], score))
        entries.append((cell, index[b] * models + index[a], 1 - score))
    for i, j in np.argwhere(pseudo > 0).tolist():
        entries.append((len(weights), i * models + j, 1.0))
        weights.append(float(pseudo[i, j]))
    rows, columns, values = zip(*entries, strict=True)
    shape = (len(weights), models * models)
    return np.array(weights), csr_array((values, (rows, columns)), shape=shape)
