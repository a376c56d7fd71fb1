"""Ratings of models from their battles: Bradley-Terry by maximum likelihood, on the Elo scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from accord.measure.ratings.bradley_terry import Labels, components, fit_strengths, relative_to
from accord.measure.ratings.consistency import consistency_notes, order_flips
from accord.measure.ratings.elo import online_elo, to_elo
from accord.measure.ratings.intervals import (
    bootstrap_ratings,
    percentiles,
    sandwich_covariance,
    sandwich_half_widths,
)
from accord.measure.ratings.notes import bootstrap_notes, estimate_notes, unit_note
from accord.measure.ratings.ranks import RankIntervals, rank_intervals
from accord.measure.ratings.resampling import units_of
from accord.measure.ratings.table import BattleTable, table_of_battles
from accord.measure.ratings.tie_models import TieRule, fit_with_ties
from accord.measure.statistics import Floats, Interval, finite_or_none
from accord.records import Battle, Outcome


@dataclass(frozen=True, slots=True)
class ModelRating:
    """A model's rating and battles. `rating` may be infinite or NaN where no finite estimate
    exists; `low` and `high` are None where an end of the interval is open or unknown. `rank` is 1
    for the best, its bounds hold for all models at once; None where nothing was resampled."""

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
    rank: Interval | None = None


@dataclass(frozen=True, slots=True)
class Ratings:
    """All models, best first. `anchor` is the model fixed at 1000, None where a mean is fixed.

    `tie_parameter` is that of the model of ties, None where a tie is half a win. `above` [models,
    models] says which are surely better than which, all at once, of the models in the order of
    their names; None where nothing was resampled.
    """

    anchor: str | None
    models: tuple[ModelRating, ...]
    pairs: tuple[PairCounts, ...]
    notes: tuple[str, ...]
    finite: bool
    confidence: float
    ties: TieRule = "half"
    tie_parameter: float | None = None
    above: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The content of ratings.json; a rating that is not finite is null, and a note says why."""
        return {
            "anchor": self.anchor,
            "finite": self.finite,
            "confidence": self.confidence,
            "ties": self.ties,
            "tie_parameter": self.tie_parameter,
            "models": [
                {**asdict(m), "rating": m.rating if math.isfinite(m.rating) else None}
                for m in self.models
            ],
            "pairs": [asdict(pair) for pair in self.pairs],
            "notes": list(self.notes),
        }


def rate_models(
    battles: Sequence[Battle] | Counts | BattleTable,
    *,
    ties: TieRule = "half",
    anchor: str | None = None,
    bootstrap: int = 200,
    confidence: float = 0.95,
    prior: float = 0.0,
    seed: int = 0,
) -> Ratings:
    """Bradley-Terry ratings with intervals.

    rating = 1000 + 400/ln 10·(θ − θ_anchor), ties and both-bad counting half a win to each side, or
    by a model of ties (`tie_models`). Without an anchor the mean of all models is 1000.

    Intervals: `bootstrap` rounds of multinomial counts (percentiles), or with `bootstrap=0` the
    sandwich estimate's normal ones. Independent of each other are the prompts of a table that has
    prompts, and else the battles. The bootstrap gives ranks with simultaneous intervals too.

    If some models never lost (or never met the rest) no finite estimate exists. Then `finite` is
    False, the notes name these models, and only the models of the anchor's group have a finite
    rating; the others are infinite (or NaN, if they never met). `prior` is the remedy on request:
    that number of pseudo-battles, half won by each side, is added to every pair of models, and a
    note says so. The bootstrap then draws from battles and pseudo-battles together, because
    resampling a model that always won would give it an interval of no width.

    Raises DataError for no battles, an unknown anchor or a negative prior.
    """
    counts = count_battles(battles.counts() if isinstance(battles, BattleTable) else battles)
    names = list(battles.names) if isinstance(battles, BattleTable) else model_names(counts)
    online: Mapping[str, float] = {}
    if isinstance(battles, Sequence):
        online = online_elo(battles)
        if battles and all(battle.prompt for battle in battles):
            battles = table_of_battles(battles)
    _check_arguments(names, anchor, prior)
    matrices = outcome_matrices(counts, names)
    pseudo = prior / 2 * (1 - np.eye(len(names)))
    scores = score_matrix(matrices) + pseudo
    labels = components(scores)
    anchors = _anchors(names, anchor, labels, scores)
    strengths, parameter = _fit(matrices, pseudo, labels, ties)
    ratings = to_elo(relative_to(strengths, scores, labels, anchors))
    notes = estimate_notes(names, scores, labels, anchors, anchor, prior)
    by_prompt = battles if isinstance(battles, BattleTable) and battles.prompt is not None else None
    units = units_of(counts if by_prompt is None else by_prompt, names, pseudo)
    notes += unit_note(units)
    finite = bool(labels.max() == 0)
    low = high = np.full(len(names), np.nan)
    ranks = None
    if bootstrap:
        drawn, degenerate = bootstrap_ratings(
            units, anchors, pseudo=pseudo, rounds=bootstrap, seed=seed, rule=ties, start=strengths
        )
        low, high = percentiles(drawn, confidence)
        ranks = rank_intervals(ratings, drawn, confidence)
        notes += bootstrap_notes(degenerate, bootstrap)
    elif finite:
        covariance = sandwich_covariance(units, strengths, ties, parameter)
        half = sandwich_half_widths(covariance, anchors, confidence)
        low, high = ratings - half, ratings + half
        notes.append("The intervals are the sandwich estimate's; nothing was resampled.")
    rows = _model_ratings(names, matrices, online, ratings, low, high, ranks)
    shown = None if ties == "half" else parameter
    pairs, even = pair_counts(counts), matrices["tie"] + matrices["both_bad"]
    notes += consistency_notes(
        pairs, order_flips(names, matrices["a"] + pseudo, even, labels), confidence
    )
    above = None if ranks is None else ranks.above
    return Ratings(anchor, rows, pairs, tuple(notes), finite, confidence, ties, shown, above)


def _fit(
    matrices: Mapping[Outcome, Floats], pseudo: Floats, labels: Labels, ties: TieRule
) -> tuple[Floats, float]:
    """The strengths, and the parameter of the model of ties (0 without one)."""
    if ties == "half":
        return fit_strengths(score_matrix(matrices) + pseudo, labels), 0.0
    even = matrices["tie"] + matrices["both_bad"]
    strengths, parameter = fit_with_ties(matrices["a"] + pseudo, even, labels, ties)
    return strengths, float(parameter)


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


def _rank_interval(ratings: Floats, ranks: RankIntervals, model: int) -> Interval:
    rank = 1 + int((ratings > ratings[model]).sum())
    return Interval(float(rank), float(ranks.best[model]), float(ranks.worst[model]))


def _model_ratings(
    names: Sequence[str],
    matrices: Mapping[Outcome, Floats],
    online: Mapping[str, float],
    ratings: Floats,
    low: Floats,
    high: Floats,
    ranks: RankIntervals | None,
) -> tuple[ModelRating, ...]:
    rows = [
        ModelRating(
            model=name,
            rating=float(ratings[i]),
            low=finite_or_none(low[i]),
            high=finite_or_none(high[i]),
            elo_online=online.get(name),
            battles=int(sum(matrix[i].sum() for matrix in matrices.values())),
            wins=int(matrices["a"][i].sum()),
            losses=int(matrices["b"][i].sum()),
            ties=int(matrices["tie"][i].sum()),
            both_bad=int(matrices["both_bad"][i].sum()),
            rank=None if ranks is None else _rank_interval(ratings, ranks, i),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(rows, key=lambda row: (math.isnan(row.rating), -row.rating, row.model)))
