"""Where one scale does not describe the battles: cycles, and an order that depends on ties."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from accord.errors import WorkError
from accord.measure.ratings.battles import PairCounts
from accord.measure.ratings.bradley_terry import Labels, fit_strengths
from accord.measure.ratings.tie_models import TieRule, fit_with_ties
from accord.measure.statistics import Floats, proportion_interval

RULES: tuple[TieRule, ...] = ("half", "rao_kupper", "davidson")
MAX_NAMED = 5


def preference_cycle(pairs: Sequence[PairCounts], confidence: float = 0.95) -> tuple[str, ...]:
    """The shortest cycle of models of which each is significantly preferred to the next, the last
    to the first; empty where there is none.

    Preferred is a model whose exact interval of the share of wins over the other, ties counting
    half, lies above one half.
    """
    beaten: dict[str, list[str]] = {}
    for pair in pairs:
        for side in (pair, pair.swapped()):
            share = proportion_interval(side.score, side.battles, confidence=confidence)
            if share.low is not None and share.low > 0.5:
                beaten.setdefault(side.a, []).append(side.b)
    cycles = (_path_back(start, beaten) for start in sorted(beaten))
    return min((cycle for cycle in cycles if cycle), key=len, default=())


def _path_back(start: str, beaten: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The shortest path from a model over those that it beats back to itself."""
    paths: deque[tuple[str, ...]] = deque([(start,)])
    seen = {start}
    while paths:
        path = paths.popleft()
        for model in beaten.get(path[-1], ()):
            if model == start:
                return path
            if model not in seen:
                seen.add(model)
                paths.append((*path, model))
    return ()


def order_flips(
    names: Sequence[str], wins: Floats, ties: Floats, labels: Labels
) -> list[tuple[str, str]]:
    """Pairs of models (better, worse) by one rule of ties whose order another rule turns around.

    `wins` and `ties` [models, models] as `fit_with_ties` takes them. Empty where there is no tie,
    or no finite estimate for all models.
    """
    if labels.max(initial=0) > 0:
        return []
    strengths = [fit_strengths(wins + ties / 2, labels)]
    try:
        strengths += [fit_with_ties(wins, ties, labels, rule)[0] for rule in RULES[1:]]
    except WorkError:
        return []
    differences = np.stack([theta[:, None] - theta[None, :] for theta in strengths])
    turned = (differences[0] > 1e-9) & (differences.min(axis=0) < -1e-9)
    return [(names[i], names[j]) for i, j in np.argwhere(turned).tolist()]


def consistency_notes(
    pairs: Sequence[PairCounts], flips: Sequence[tuple[str, str]], confidence: float
) -> list[str]:
    """Notes on a cycle and on turned pairs, if there are any."""
    notes = []
    cycle = preference_cycle(pairs, confidence)
    if cycle:
        steps = ", ".join(f"{a} to {b}" for a, b in zip(cycle, (*cycle[1:], cycle[0]), strict=True))
        notes.append(
            f"No single scale describes these battles: significantly preferred are {steps}. Their "
            f"ratings are a compromise; read the win rates of these models."
        )
    if flips:
        shown = "; ".join(f"{a} and {b}" for a, b in flips[:MAX_NAMED])
        more = f"; and {len(flips) - MAX_NAMED} more" if len(flips) > MAX_NAMED else ""
        notes.append(f"The order depends on what a tie counts as (`ties`): {shown}{more}.")
    return notes


def next_pairs(
    names: Sequence[str], strengths: Floats, covariance: Floats, count: int = 5
) -> list[tuple[str, str, float]]:
    """The `count` pairs of models whose next battle would lower the ratings' variance most, with
    the share of it that one battle removes.

    One more battle between i and j adds w·xxᵀ to the information, x = e_i − e_j and w = p(1 − p);
    the summed variance falls by w·|Cx|²/(1 + w·xᵀCx) (Sherman and Morrison 1950): A-optimal design.
    """
    i, j = np.triu_indices(len(names), 1)
    moved = covariance[:, i] - covariance[:, j]
    p = 1 / (1 + np.exp(strengths[j] - strengths[i]))
    weight = p * (1 - p)
    variance = moved[i, np.arange(len(i))] - moved[j, np.arange(len(i))]
    gain = weight * (moved**2).sum(axis=0) / (1 + weight * variance)
    best = np.argsort(-gain, kind="stable")[:count]
    total = float(np.trace(covariance))
    return [(names[i[k]], names[j[k]], float(gain[k]) / total) for k in best.tolist()]
