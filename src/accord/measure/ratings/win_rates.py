"""How often each model is preferred to each other one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from accord.measure.ratings.battles import Counts, count_battles, model_names
from accord.measure.statistics import Interval, proportion_interval
from accord.records import Battle


@dataclass(frozen=True, slots=True)
class WinRate:
    """`model` against `opponent`. The rate is the mean preference: 1 a win, one half a tie.

    `standard_error` is that mean's, or None from a single battle. `interval` is Wilson's, which
    keeps a width where every battle was won. Battles whose answers were both bad count as ties in
    the rate, and are told apart.
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

    Verdicts that could not be read are not battles: count them where they are made.
    """
    counts = count_battles(battles)
    table: dict[str, dict[str, WinRate]] = {name: {} for name in model_names(counts)}
    for a, b in sorted({(a, b) for a, b, _ in counts}):
        won, lost = counts.get((a, b, "a"), 0), counts.get((a, b, "b"), 0)
        ties, bad = counts.get((a, b, "tie"), 0), counts.get((a, b, "both_bad"), 0)
        table[a][b] = _win_rate(a, b, won, lost, ties, bad, confidence)
        table[b][a] = _win_rate(b, a, lost, won, ties, bad, confidence)
    return table


def _win_rate(
    model: str, opponent: str, wins: int, losses: int, ties: int, both_bad: int, confidence: float
) -> WinRate:
    battles = wins + losses + ties + both_bad
    score = wins + 0.5 * (ties + both_bad)
    rate = score / battles
    squares = wins + 0.25 * (ties + both_bad) - battles * rate**2  # Σ (y − ȳ)²
    error = None
    if battles > 1:
        error = math.sqrt(max(0.0, squares) / (battles - 1) / battles)
    interval = proportion_interval(score, battles, confidence=confidence)
    return WinRate(model, opponent, rate, error, interval, battles, wins, losses, ties, both_bad)
