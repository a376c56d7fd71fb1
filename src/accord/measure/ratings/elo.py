"""The Elo scale, and Elo's own ratings, updated battle by battle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from accord.measure.statistics import Floats
from accord.records import Battle, Outcome

ANCHOR_RATING = 1000.0
ELO_PER_NAT = 400 / math.log(10)  # a difference of 400 means odds of 10 to 1
SCORE: dict[Outcome, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""The first model's score for each outcome; the second model scores the rest of 1."""


def to_elo(strengths: Floats) -> Floats:
    """1000 + 400/ln 10·θ."""
    return ANCHOR_RATING + ELO_PER_NAT * strengths


def online_elo(
    battles: Iterable[Battle],
    *,
    k: float = 4.0,
    base: float = 10.0,
    scale: float = 400.0,
    start: float = 1000.0,
) -> dict[str, float]:
    """Elo's ratings (1978), updated after every battle: r_a += k·(score − expected).

    expected = 1 / (1 + base^((r_b − r_a)/scale)). They depend on the order of the battles; use
    `rate_models` to compare models.
    """
    ratings: dict[str, float] = {}
    for battle in battles:
        a = ratings.setdefault(battle.model_a, start)
        b = ratings.setdefault(battle.model_b, start)
        change = k * (SCORE[battle.outcome] - 1 / (1 + base ** ((b - a) / scale)))
        ratings[battle.model_a] = a + change
        ratings[battle.model_b] = b - change
    return ratings


def online_elo_of_columns(
    names: Sequence[str], a: Sequence[int], b: Sequence[int], scores: Sequence[float]
) -> dict[str, float]:
    """`online_elo` of battles as columns: the indices of the models in `names`, and the first one's
    scores."""
    ratings = [ANCHOR_RATING] * len(names)
    for i, j, score in zip(a, b, scores, strict=True):
        change = 4.0 * (score - 1 / (1 + 10.0 ** ((ratings[j] - ratings[i]) / 400.0)))
        ratings[i] += change
        ratings[j] -= change
    met = {*a, *b}
    return {name: ratings[i] for i, name in enumerate(names) if i in met}
