"""Best-of-N before anyone pays for it: what each N gains, by the reward and by an independent
measure, and what it costs. All of it from one set of responses, with unbiased estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from accord.measure.over_optimisation import best_of_n_kl, best_of_n_weights
from accord.measure.responses import Nested
from accord.measure.statistics import Floats, Interval, mean_interval

MIN_PROMPTS = 2


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Best-of-n, with the interval of each mean over prompts.

    `kl` is log n − (n−1)/n nats a response, an upper bound where responses tie. `proxy_gain` and
    `independent_gain` are differences from one response to the same prompts. `length` is that of
    the response chosen, `tokens` of all n, both in tokens.
    """

    n: int
    kl: float
    proxy: Interval
    proxy_gain: Interval
    independent: Interval | None
    independent_gain: Interval | None
    length: Interval | None
    tokens: Interval | None

    def to_json(self) -> dict[str, Any]:
        """The values by name, intervals as `{mean, low, high}`."""
        intervals = {
            key: value.to_json()
            for key in self.__slots__
            if isinstance(value := getattr(self, key), Interval)
        }
        return {"n": self.n, "kl": self.kl, **intervals}


@dataclass(frozen=True, slots=True)
class Turn:
    """The smallest n at which the independent measure is surely lower than at an earlier m.

    `difference` is that of n from m on the same prompts, at the confidence that holds for all pairs
    of N together (Bonferroni). `m` is the one from which it fell the most surely.
    """

    n: int
    m: int
    difference: Interval

    def to_json(self) -> dict[str, Any]:
        """`{n, m, difference}`."""
        return {"n": self.n, "m": self.m, "difference": self.difference.to_json()}


@dataclass(frozen=True, slots=True)
class BestOfNCurve:
    """The points for n = 1, 2, 4, …, and where the independent measure turns down, if it does."""

    points: tuple[BestOfN, ...]
    turn: Turn | None
    finding: str


def best_of_n_curve(
    proxy: Nested,
    independent: Nested | None = None,
    tokens: Nested | None = None,
    *,
    confidence: float = 0.95,
) -> BestOfNCurve:
    """Best-of-n chosen by `proxy`, for n = 1, 2, 4, … up to the fewest responses to a prompt.

    All have the shape [prompts][responses] and hold finite numbers. Each value of a prompt is the
    expectation over all subsets of n of its responses (`best_of_n_weights`), so it is unbiased; at
    the largest n it rests on few subsets. Raises ValueError with fewer than two prompts, or a
    prompt without responses.
    """
    fewest = min((len(row) for row in proxy), default=0)
    if len(proxy) < MIN_PROMPTS or not fewest:
        raise ValueError(
            f"a curve needs responses to {MIN_PROMPTS} prompts or more, since prompts are its "
            f"independent units; there are {len(proxy)}, the fewest responses {fewest}"
        )
    sizes = [2**k for k in range(fewest.bit_length()) if 2**k <= fewest]
    weights = [[best_of_n_weights(row, n) for row in proxy] for n in sizes]
    by_n = [_expected(w, proxy) for w in weights]
    quality = None if independent is None else [_expected(w, independent) for w in weights]
    chosen = None if tokens is None else [_expected(w, tokens) for w in weights]
    drawn = None if tokens is None else np.array([float(np.mean(row)) for row in tokens])
    points = tuple(
        BestOfN(
            n,
            best_of_n_kl(n),
            mean_interval(by_n[i], confidence=confidence),
            mean_interval(by_n[i] - by_n[0], confidence=confidence),
            None if quality is None else mean_interval(quality[i], confidence=confidence),
            None
            if quality is None
            else mean_interval(quality[i] - quality[0], confidence=confidence),
            None if chosen is None else mean_interval(chosen[i], confidence=confidence),
            None if drawn is None else mean_interval(n * drawn, confidence=confidence),
        )
        for i, n in enumerate(sizes)
    )
    turn = None if quality is None else find_turn(sizes, quality, confidence=confidence)
    return BestOfNCurve(points, turn, _finding(points, turn))


def find_turn(
    sizes: Sequence[int], quality: Sequence[Floats], *, confidence: float = 0.95
) -> Turn | None:
    """Where quality turns down over N; None where no fall is sure.

    `quality[i]` (prompts,) is the independent measure of best-of-`sizes[i]`. Every pair m < n is
    compared on the same prompts at 1 − α/(number of pairs), so that the whole curve has a false
    turn with probability α at most.
    """
    pairs = [(i, j) for j in range(len(sizes)) for i in range(j)]
    for j in range(1, len(sizes)):
        falls = []
        for i in range(j):
            corrected = 1 - (1 - confidence) / len(pairs)
            difference = mean_interval(quality[j] - quality[i], confidence=corrected)
            if difference.high is not None and difference.high < 0:
                falls.append(Turn(sizes[j], sizes[i], difference))
        if falls:
            return min(falls, key=lambda turn: turn.difference.high or 0.0)
    return None


def measured_best_of_n_kl(
    chosen: Sequence[float], others: Nested, n: int, *, confidence: float = 0.95
) -> Interval:
    """The KL of best-of-n from its reference in nats, from the scores of the responses `chosen`
    (prompts,) and of independent responses of the reference, `others` [prompts][M]."""
    ratios = [best_of_n_log_ratio(s, row, n) for s, row in zip(chosen, others, strict=True)]
    return mean_interval(ratios, confidence=confidence)


def best_of_n_log_ratio(chosen: float, others: Sequence[float], n: int) -> float:
    """log π_n/π of a response chosen among n, from the scores of M independent responses of π.

    The ratio is n·F^(n−1), with F the share of π's responses that score below it. With r of M
    below, ψ(r + 1) − ψ(M + 1) estimates log F without bias, up to terms of (1 − F)^(M+1). Where t
    tie with it, the ratio is (F₊^n − F₋^n)/(F₊ − F₋) for the shares F₋ below and F₊ not above it
    (Beirami et al. 2024), and the shares of the sample take their place.
    """
    scores = np.asarray(others, dtype=np.float64)
    below, ties = int((scores < chosen).sum()), int((scores == chosen).sum())
    if ties:
        low, high = below / len(scores), (below + ties) / len(scores)
        return math.log((high**n - low**n) / (high - low))
    log_share = float(special.digamma(below + 1) - special.digamma(len(scores) + 1))
    return math.log(n) + (n - 1) * log_share


def _expected(weights: Sequence[Floats], values: Nested) -> Floats:
    return np.array([float(w @ np.asarray(v)) for w, v in zip(weights, values, strict=True)])


def _finding(points: Sequence[BestOfN], turn: Turn | None) -> str:
    last = points[-1]
    gain = f"From 1 to {last.n} responses the reward gains {_bounds(last.proxy_gain)}"
    if last.independent_gain is None:
        return (
            f"{gain}. Without an independent measure it is not known whether quality gains "
            "too: a reward model is what best-of-N exploits."
        )
    if turn is not None:
        return (
            f"{gain}, but the independent measure turns down at N = {turn.n}: it differs from "
            f"N = {turn.m} by {_bounds(turn.difference)}. Serve at most N = "
            f"{max(p.n for p in points if p.n < turn.n)}."
        )
    best = max(points, key=lambda p: p.independent.mean if p.independent else 0.0)
    if best is last:
        seen = f"the independent measure {_bounds(last.independent_gain)}, and is highest there"
    else:
        seen = (
            f"the independent measure {_bounds(last.independent_gain)}; it is highest at "
            f"N = {best.n}, but its fall after that is not sure: more prompts would decide"
        )
    return f"{gain}, {seen}."


def _bounds(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.mean:+.3g}"
    return f"{value.mean:+.3g} ({value.low:+.3g} to {value.high:+.3g})"
