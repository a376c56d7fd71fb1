"""Battles collapsed to counts, which is all that ratings and win rates need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from accord.errors import DataError
from accord.measure.statistics import Floats
from accord.records import Battle, Outcome

Counts = Mapping[tuple[str, str, Outcome], int]
"""The number of battles with each (model_a, model_b, outcome)."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SWAPPED: dict[Outcome, Outcome] = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


def count_battles(battles: Iterable[Battle] | Counts) -> dict[tuple[str, str, Outcome], int]:
    """Counts with the two names in alphabetical order: one entry for each pair and outcome.

    Raises DataError when a model meets itself, an outcome is unknown or a count is negative.
    """
    counts: Counter[tuple[str, str, Outcome]] = Counter()
    if isinstance(battles, Mapping):
        entries: Iterable[tuple[tuple[str, str, Outcome], int]] = battles.items()
    else:
        entries = Counter((b.model_a, b.model_b, b.outcome) for b in battles).items()
    for (a, b, outcome), count in entries:
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


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How two models' battles ended."""

    a: str
    b: str
    wins_a: int
    wins_b: int
    ties: int
    both_bad: int

    @property
    def battles(self) -> int:
        """How often the two met."""
        return self.wins_a + self.wins_b + self.ties + self.both_bad

    @property
    def score(self) -> float:
        """What `a` scored: 1 for a win, one half for a tie or where both answers were bad."""
        return self.wins_a + 0.5 * (self.ties + self.both_bad)

    def swapped(self) -> PairCounts:
        """The same battles with the two models exchanged."""
        return PairCounts(self.b, self.a, self.wins_b, self.wins_a, self.ties, self.both_bad)


def pair_counts(battles: Iterable[Battle] | Counts) -> tuple[PairCounts, ...]:
    """The counts of each two models that met, in alphabetical order."""
    counts = count_battles(battles)
    pairs = sorted({(a, b) for a, b, _ in counts})
    return tuple(
        PairCounts(
            a=a,
            b=b,
            wins_a=counts.get((a, b, "a"), 0),
            wins_b=counts.get((a, b, "b"), 0),
            ties=counts.get((a, b, "tie"), 0),
            both_bad=counts.get((a, b, "both_bad"), 0),
        )
        for a, b in pairs
    )


def model_names(counts: Counts) -> list[str]:
    """Every model that met another, in alphabetical order."""
    return sorted({name for a, b, _ in counts for name in (a, b)})


def outcome_matrices(counts: Counts, names: Sequence[str]) -> dict[Outcome, Floats]:
    """One matrix [models, models] for each outcome: `["a"][i, j]` is how often i beat j.

    `["b"]` is the transpose of `["a"]`; ties and both-bad are symmetric.
    """
    index = {name: i for i, name in enumerate(names)}
    matrices = {outcome: np.zeros((len(names), len(names))) for outcome in OUTCOMES}
    for (a, b, outcome), count in counts.items():
        matrices[outcome][index[a], index[b]] += count
        matrices[SWAPPED[outcome]][index[b], index[a]] += count
    return matrices


def score_matrix(matrices: Mapping[Outcome, Floats]) -> Floats:
    """`[i, j]` is the score of i against j: 1 for a win, one half for a tie.

    That both answers were bad says nothing about which is better, so for a rating it is a tie;
    tables of counts list it separately.
    """
    return matrices["a"] + 0.5 * (matrices["tie"] + matrices["both_bad"])
