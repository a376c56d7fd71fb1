"""When a candidate is not worth finishing, and when no further one is worth drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

from accord.errors import SettingsError

MIN_SCORES = 3
"""Scores from which their spread is estimated before it decides anything."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """After `tokens` tokens of every candidate, only the best `keep` of all N go on."""

    tokens: int
    keep: float


def read_checkpoints(text: str) -> tuple[Checkpoint, ...]:
    """`8:0.5,16:0.25`: after 8 tokens half of the candidates go on, after 16 a quarter of all.

    Raises SettingsError where the tokens do not rise or the shares do not fall.
    """
    points = []
    for part in text.split(","):
        tokens, _, keep = part.strip().partition(":")
        try:
            points.append(Checkpoint(int(tokens), float(keep)))
        except ValueError:
            raise SettingsError(
                f"{part!r} is no checkpoint of pruning. Write TOKENS:SHARE, such as 8:0.5,16:0.25: "
                f"after 8 tokens half of the candidates go on, after 16 a quarter."
            ) from None
    rising = all(a.tokens < b.tokens and a.keep > b.keep for a, b in pairwise(points))
    if not rising or not all(p.tokens > 0 and 0 < p.keep < 1 for p in points):
        raise SettingsError(
            f"The checkpoints {text} must have rising tokens and falling shares between 0 and 1, "
            f"such as 8:0.5,16:0.25."
        )
    return tuple(points)


def survivors(scores: Sequence[float], keep: float, num_all: int, num_chosen: int) -> list[int]:
    """The indices of the candidates that go on, the best first: the share `keep` of `num_all`, but
    at least `num_chosen`, which will be returned. NaN is worst; ties go to the first."""
    count = max(num_chosen, 1, math.ceil(keep * num_all))
    return rank(scores)[:count]


def rank(scores: Sequence[float]) -> list[int]:
    """Indices by score, the best first; NaN last, ties in their order."""
    return sorted(range(len(scores)), key=lambda i: (-_or_worst(scores[i]), i))


def _or_worst(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def expected_improvement(scores: Sequence[float]) -> float:
    """How much one more candidate is expected to raise the best score.

    E[max(X − best, 0)] = σ(φ(z) − z(1 − Φ(z))) with z = (best − μ)/σ, for a normal X with the
    candidates' mean and standard deviation (Mockus 1975); infinite below `MIN_SCORES` scores.
    """
    values = np.array([s for s in scores if not math.isnan(s)])
    if len(values) < MIN_SCORES:
        return math.inf
    spread = float(values.std(ddof=1))
    if spread == 0:
        return 0.0
    z = float((values.max() - values.mean()) / spread)
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return spread * (density - z * float(special.ndtr(-z)))


@dataclass(frozen=True, slots=True)
class Stopping:
    """Candidates are drawn `wave` at a time, until the best scores `enough`, or one more is
    expected to raise the best by less than `cost`. With neither, all are drawn at a time."""

    enough: float | None = None
    cost: float | None = None
    wave: int = 4

    @property
    def is_sequential(self) -> bool:
        return self.enough is not None or self.cost is not None

    def waves(self, n: int, num_chosen: int) -> list[int]:
        """How many candidates each wave draws at most; `num_chosen` will be returned."""
        if not self.is_sequential:
            return [n]
        sizes: list[int] = []
        while n > 0:
            sizes.append(min(n, max(self.wave, num_chosen if not sizes else 0)))
            n -= sizes[-1]
        return sizes

    def is_done(self, scores: Sequence[float], num_chosen: int) -> bool:
        """Whether these candidates suffice, of which `num_chosen` are returned."""
        ranked = [scores[i] for i in rank(scores)]
        if not self.is_sequential or len(ranked) < num_chosen:
            return False
        worst_chosen = ranked[num_chosen - 1]
        if self.enough is not None and worst_chosen >= self.enough:
            return True
        return self.cost is not None and expected_improvement(scores) < self.cost
