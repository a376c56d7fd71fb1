"""How often each model is preferred to each other one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from accord.measure.ratings.battles import (
    Counts,
    PairCounts,
    count_battles,
    model_names,
    pair_counts,
)
from accord.measure.statistics import Interval, proportion_interval
from accord.records import Battle


@dataclass(frozen=True, slots=True)
class WinRate:
    """`model` against `opponent`. The rate is the mean score: 1 for a win, one half for a tie.

    `standard_error` is that of the mean, None for a single battle. `interval` is the exact
    one, which has a width even where every battle was won. Battles whose answers were both bad
    count as ties in the rate, and are counted separately.
    """

    model: str
    opponent: str
    rate: float
    standard_error: float | None
    interval: Interval
    battles: int
    wins: int
    losses: int
    ties: int
    both_bad: int


def win_rates(
    battles: Iterable[Battle] | Counts, *, confidence: float = 0.95
) -> dict[str, dict[str, WinRate]]:
    """The matrix `[model][opponent]`; two models that never met have no entry.

    A verdict that could not be read is no battle; whoever makes the verdicts counts it.
    """
    counts = count_battles(battles)
    table: dict[str, dict[str, WinRate]] = {name: {} for name in model_names(counts)}
    for pair in pair_counts(counts):
        table[pair.a][pair.b] = _win_rate(pair, confidence)
        table[pair.b][pair.a] = _win_rate(pair.swapped(), confidence)
    return table


def _win_rate(pair: PairCounts, confidence: float) -> WinRate:
    """The rate of the pair's first model."""
    rate = pair.score / pair.battles
    even = pair.ties + pair.both_bad
    squares = pair.wins_a + 0.25 * even - pair.battles * rate**2  # Σ (y − ȳ)²
    error = None
    if pair.battles > 1:
        error = math.sqrt(max(0.0, squares) / (pair.battles - 1) / pair.battles)
    return WinRate(
        model=pair.a,
        opponent=pair.b,
        rate=rate,
        standard_error=error,
        interval=proportion_interval(pair.score, pair.battles, confidence=confidence),
        battles=pair.battles,
        wins=pair.wins_a,
        losses=pair.wins_b,
        ties=pair.ties,
        both_bad=pair.both_bad,
    )
