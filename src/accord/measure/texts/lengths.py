"""Reward at equal length: much of a gain may be mere length (Singhal et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accord.measure.texts.diversity import words

BINS = 5
FEWEST_IN_BIN = 5
"""Responses that a model needs in a bin for the bin to be compared."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Mean rewards of the responses with `least` to `most` words; the bins are the same for all
    models, so that answers of equal length can be compared."""

    least: int
    most: int
    responses: int
    true_reward: float | None
    reward_model_score: float | None


def length_edges(texts: Sequence[str]) -> list[int]:
    """Where bins of about equal size begin, in words, and where the last one ends.

    Give the texts of all models together. Raises ValueError when there are none.
    """
    lengths = [len(words(text)) for text in texts]
    if not lengths:
        raise ValueError("there are no texts to put into bins of length")
    quantiles = np.quantile(lengths, np.arange(BINS) / BINS, method="lower")
    return [*np.unique(quantiles).astype(int).tolist(), max(lengths) + 1]


def length_bins(
    texts: Sequence[str],
    edges: Sequence[int],
    *,
    true_reward: Sequence[float] | None = None,
    reward_model_score: Sequence[float] | None = None,
) -> tuple[LengthBin, ...]:
    """Mean rewards by length; empty bins are left out. The rewards are one a text."""
    lengths = np.array([len(words(text)) for text in texts])
    bins = []
    for start, stop in pairwise(edges):
        chosen = (lengths >= start) & (lengths < stop)
        if chosen.any():
            bins.append(
                LengthBin(
                    least=start,
                    most=stop - 1,
                    responses=int(chosen.sum()),
                    true_reward=_mean(true_reward, chosen),
                    reward_model_score=_mean(reward_model_score, chosen),
                )
            )
    return tuple(bins)


def length_matched_gain(
    bins: Sequence[LengthBin],
    reference: Sequence[LengthBin],
    reward: Literal["true_reward", "reward_model_score"] = "true_reward",
) -> float:
    """How much more reward than the reference at equal length: the gains within bins, each weighted
    by the fewer responses of the two.

    NaN where no bin holds at least `FEWEST_IN_BIN` responses of both.
    """
    theirs = {(b.least, b.most): b for b in reference}
    gain = weight = 0.0
    for ours in bins:
        other = theirs.get((ours.least, ours.most))
        if other is None or min(ours.responses, other.responses) < FEWEST_IN_BIN:
            continue
        value, base = getattr(ours, reward), getattr(other, reward)
        if value is not None and base is not None:
            shared = min(ours.responses, other.responses)
            gain += shared * (value - base)
            weight += shared
    return gain / weight if weight else math.nan


def _mean(values: Sequence[float] | None, chosen: Bools) -> float | None:
    return None if values is None else float(np.asarray(values, dtype=np.float64)[chosen].mean())
