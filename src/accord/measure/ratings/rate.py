"""Ratings of models from their battles: Bradley-Terry by maximum likelihood, on the Elo scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from accord.errors import DataError
from accord.measure.ratings.battles import (
    Counts,
    PairCounts,
    count_battles,
    model_names,
    outcome_matrices,
    pair_counts,
    score_matrix,
)
from accord.measure.ratings.bradley_terry import (
    Labels,
    components,
    fit_strengths,
    relative_to,
    sandwich_covariance,
)
from accord.measure.ratings.elo import online_elo, to_elo
from accord.measure.ratings.intervals import bootstrap_ratings, percentiles, sandwich_half_widths
from accord.measure.ratings.notes import bootstrap_notes, estimate_notes
from accord.measure.statistics import Floats
from accord.records import Battle, Outcome


@dataclass(frozen=True, slots=True)
class ModelRating:
    """A model's rating and battles. `rating` may be infinite or NaN where no finite estimate
    exists; `low` and `high` are None where an end of the interval is open or unknown."""

    model: str
    rating: float
    low: float | None
    high: float | None
    elo_online: float | None
    battles: int
    wins: int
    losses: int
    ties: int
    both_bad: int


@dataclass(frozen=True, slots=True)
class Ratings:
    """All models, best first. `anchor` is the model fixed at 1000, None where a mean is fixed."""

    anchor: str | None
    models: tuple[ModelRating, ...]
    pairs: tuple[PairCounts, ...]
    notes: tuple[str, ...]
    finite: bool
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """The content of ratings.json; a rating that is not finite is null, and a note says why."""
        return {
            "anchor": self.anchor,
            "finite": self.finite,
            "confidence": self.confidence,
            "models": [
                {**asdict(m), "rating": m.rating if math.isfinite(m.rating) else None}
                for m in self.models
            ],
            "pairs": [asdict(pair) for pair in self.pairs],
            "notes": list(self.notes),
        }


def rate_models(
    battles: Sequence[Battle] | Counts,
    *,
    anchor: str | None = None,
    bootstrap: int = 200,
    confidence: float = 0.95,
    prior: float = 0.0,
    seed: int = 0,
) -> Ratings:
    """Bradley-Terry ratings with intervals.

    rating = 1000 + 400/ln 10·(θ − θ_anchor), ties and both-bad counting half a win to each side.
    Without an anchor the mean of all models is 1000.

    Intervals: `bootstrap` rounds of multinomial counts (percentiles; the battles are taken as
    independent), or with `bootstrap=0` the sandwich estimate's normal ones.

    If some models never lost (or never met the rest) no finite estimate exists. Then `finite` is
    False, the notes name these models, and only the models of the anchor's group have a finite
    rating; the others are infinite (or NaN, if they never met). `prior` is the remedy on request:
    that number of pseudo-battles, half won by each side, is added to every pair of models, and a
    note says so. The bootstrap then draws from battles and pseudo-battles together, because
    resampling a model that always won would give it an interval of no width.

    Raises DataError for no battles, an unknown anchor or a negative prior.
    """
    counts = count_battles(battles)
    names = model_names(counts)
    _check_arguments(names, anchor, prior)
    matrices = outcome_matrices(counts, names)
    pseudo = prior / 2 * (1 - np.eye(len(names)))
    scores = score_matrix(matrices) + pseudo
    labels = components(scores)
    anchors = _anchors(names, anchor, labels, scores)
    strengths = fit_strengths(scores, labels)
    ratings = to_elo(relative_to(strengths, scores, labels, anchors))
    notes = estimate_notes(names, scores, labels, anchors, anchor, prior)
    finite = bool(labels.max() == 0)
    low = high = np.full(len(names), np.nan)
    if bootstrap:
        drawn, degenerate = bootstrap_ratings(
            counts, names, anchors, pseudo=pseudo, rounds=bootstrap, seed=seed
        )
        low, high = percentiles(drawn, confidence)
        notes += bootstrap_notes(degenerate, bootstrap)
    elif finite:
        ties = matrices["tie"] + matrices["both_bad"]
        covariance = sandwich_covariance(matrices["a"] + pseudo, ties, strengths)
        half = sandwich_half_widths(covariance, anchors, confidence)
        low, high = ratings - half, ratings + half
        notes.append("The intervals are the sandwich estimate's; nothing was resampled.")
    online = {} if isinstance(battles, Mapping) else online_elo(battles)
    rows = _model_ratings(names, matrices, online, ratings, low, high)
    return Ratings(anchor, rows, pair_counts(counts), tuple(notes), finite, confidence)


def _check_arguments(names: Sequence[str], anchor: str | None, prior: float) -> None:
    if not names:
        raise DataError("There are no battles to rate models by; compare some responses first.")
    if anchor is not None and anchor not in names:
        raise DataError(
            f"The anchor {anchor!r} is in no battle; the models are {', '.join(names)}."
        )
    if not 0 <= prior < math.inf:
        raise DataError(f"The prior is {prior}; it must be a number of pseudo-battles, 0 or more.")


def _anchors(names: Sequence[str], anchor: str | None, labels: Labels, scores: Floats) -> Labels:
    """The models whose mean is 1000: the requested one, all models, or, where there is no finite
    estimate, the connected group with the most battles (the first of equals)."""
    if anchor is not None:
        return np.array([names.index(anchor)])
    inside = np.where(labels[:, None] == labels[None, :], scores, 0.0).sum(axis=1)
    battles = np.bincount(labels, weights=inside)
    first = [int(np.flatnonzero(labels == group)[0]) for group in range(len(battles))]
    best = max(range(len(battles)), key=lambda group: (battles[group], -first[group]))
    return np.flatnonzero(labels == best)


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _model_ratings(
    names: Sequence[str],
    matrices: Mapping[Outcome, Floats],
    online: Mapping[str, float],
    ratings: Floats,
    low: Floats,
    high: Floats,
) -> tuple[ModelRating, ...]:
    rows = [
        ModelRating(
            model=name,
            rating=float(ratings[i]),
            low=_finite_or_none(low[i]),
            high=_finite_or_none(high[i]),
            elo_online=online.get(name),
            battles=int(sum(matrix[i].sum() for matrix in matrices.values())),
            wins=int(matrices["a"][i].sum()),
            losses=int(matrices["b"][i].sum()),
            ties=int(matrices["tie"][i].sum()),
            both_bad=int(matrices["both_bad"][i].sum()),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(rows, key=lambda row: (math.isnan(row.rating), -row.rating, row.model)))
