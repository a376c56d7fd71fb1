"""Battles collapsed to counts: everything that ratings and win rates need to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import numpy as np

from accord.errors import DataError
from accord.measure.statistics import Floats
from accord.records import Battle, Outcome

Counts = Mapping[tuple[str, str, Outcome], int]
"""How often (model_a, model_b, outcome) was seen."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SWAPPED: dict[Outcome, Outcome] = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


def count_battles(battles: Iterable[Battle] | Counts) -> dict[tuple[str, str, Outcome], int]:
    """Counts with the two names in alphabetical order, so that each pair has one entry an outcome.

    Raises DataError when a model meets itself, an outcome is unknown or a count is negative.
    """
    counts: Counter[tuple[str, str, Outcome]] = Counter()
    if isinstance(battles, Mapping):
        seen: Iterable[tuple[tuple[str, str, Outcome], int]] = battles.items()
    else:
        seen = Counter((b.model_a, b.model_b, b.outcome) for b in battles).items()
    for (a, b, outcome), count in seen:
        if a == b:
            raise DataError(f"{a!r} battles itself; give the two sides different model names.")
        if outcome not in SWAPPED:
            raise DataError(
                f"The battle of {a!r} and {b!r} has the outcome {outcome!r}; "
                f"it must be one of {', '.join(OUTCOMES)}."
            )
        if count < 0:
            raise DataError(f"The battle of {a!r} and {b!r} has a count of {count}.")
        if count:
            counts[(a, b, outcome) if a < b else (b, a, SWAPPED[outcome])] += count
    return dict(sorted(counts.items()))


def model_names(counts: Counts) -> list[str]:
    """Every model that met another, in alphabetical order."""
    return sorted({name for a, b, _ in counts for name in (a, b)})


def outcome_matrices(counts: Counts, names: Sequence[str]) -> dict[Outcome, Floats]:
    """One matrix [models, models] an outcome: `["a"][i, j]` is how often i beat j.

    `["b"]` is the transpose of `["a"]`; ties and both-bad are symmetric.
    """
    index = {name: i for i, name in enumerate(names)}
    matrices = {outcome: np.zeros((len(names), len(names))) for outcome in OUTCOMES}
    for (a, b, outcome), count in counts.items():
        matrices[outcome][index[a], index[b]] += count
        matrices[SWAPPED[outcome]][index[b], index[a]] += count
    return matrices


def score_matrix(matrices: Mapping[Outcome, Floats]) -> Floats:
    """`[i, j]` is what i scored against j: 1 a win, one half a tie.

    That both answers were bad says nothing about which is better, so for a rating it is a tie; it
    is counted apart wherever counts are shown.
    """
    return matrices["a"] + 0.5 * (matrices["tie"] + matrices["both_bad"])
