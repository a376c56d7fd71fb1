"""Reward at equal length: part of a gain may be due to length alone (Singhal et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accord.measure.texts.diversity import words

BINS = 5
MIN_IN_BIN = 5
"""Responses that both models need in a bin for the bin to be compared."""

MIN_COMPARED = 30
"""Responses of either model in the compared bins, below which there is no gain at equal length: the
mean of fewer is off by a fifth of a standard deviation or more."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Mean rewards of the responses with `min_words` to `max_words` words. The bins are the same
    for all models, so that responses of equal length can be compared."""

    min_words: int
    max_words: int
    responses: int
    true_reward: float | None
    reward_model_score: float | None

    def to_json(self) -> dict[str, Any]:
        """The bin in evaluation.json."""
        return {
            "least": self.min_words,
            "most": self.max_words,
            "responses": self.responses,
            "true_reward": self.true_reward,
            "reward_model_score": self.reward_model_score,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LengthBin:
        """The bin that `to_json` wrote."""
        return cls(
            min_words=value["least"],
            max_words=value["most"],
            responses=value["responses"],
            true_reward=value["true_reward"],
            reward_model_score=value["reward_model_score"],
        )


def length_edges(texts: Sequence[str]) -> list[int]:
    """The starts of bins of about equal size, in words, and the end of the last bin.

    `texts` are those of all models together. Raises ValueError when there are none.
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
    """Mean rewards by length, without empty bins. Each text has one reward."""
    lengths = np.array([len(words(text)) for text in texts])
    bins = []
    for start, stop in pairwise(edges):
        chosen = (lengths >= start) & (lengths < stop)
        if chosen.any():
            bins.append(
                LengthBin(
                    min_words=start,
                    max_words=stop - 1,
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
    """The gain in reward over the reference at equal length: the mean of the gains within bins,
    each weighted by the smaller number of responses of the two models.

    NaN where the bins that have at least `MIN_IN_BIN` responses of both have fewer than
    `MIN_COMPARED` of either.
    """
    reference_bins = {(b.min_words, b.max_words): b for b in reference}
    gain = weight = 0.0
    for model_bin in bins:
        reference_bin = reference_bins.get((model_bin.min_words, model_bin.max_words))
        if reference_bin is None:
            continue
        shared = min(model_bin.responses, reference_bin.responses)
        value, base = getattr(model_bin, reward), getattr(reference_bin, reward)
        if shared >= MIN_IN_BIN and value is not None and base is not None:
            gain += shared * (value - base)
            weight += shared
    return gain / weight if weight >= MIN_COMPARED else math.nan


def _mean(values: Sequence[float] | None, chosen: Bools) -> float | None:
    return None if values is None else float(np.asarray(values, dtype=np.float64)[chosen].mean())
