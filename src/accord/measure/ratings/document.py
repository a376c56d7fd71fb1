"""The content of ratings.json beyond the ratings: what else the battles say about the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.errors import WorkError
from accord.measure.ratings.battles import outcome_matrices, score_matrix
from accord.measure.ratings.bradley_terry import components
from accord.measure.ratings.categories import CategoryRatings, rate_categories
from accord.measure.ratings.consistency import next_pairs
from accord.measure.ratings.elo import ELO_PER_NAT, to_elo
from accord.measure.ratings.intervals import sandwich_covariance
from accord.measure.ratings.length_control import LengthControlled, length_controlled_rates
from accord.measure.ratings.notes import join_names
from accord.measure.ratings.paired import PairedComparison, paired_comparisons
from accord.measure.ratings.position import position_effect
from accord.measure.ratings.progress import RatedRun, rated_runs
from accord.measure.ratings.rate import Ratings, rate_models
from accord.measure.ratings.resampling import TIES, units_of
from accord.measure.ratings.separation import UnclearPair, unclear_pairs
from accord.measure.ratings.style import StyleEffect, fit_style
from accord.measure.ratings.table import BattleTable
from accord.measure.statistics import Floats, Interval, normal_quantile

MAX_UNCLEAR = 200  # pairs in the file
NAMED = 3  # pairs in a note
MAX_CATEGORIES = 200  # more are no categories, but names of single prompts
NextPair = tuple[str, str, float | None]


@dataclass(frozen=True, slots=True)
class StyleRating:
    """A model's rating at equal style, and by how much it differs from the plain one."""

    model: str
    rating: float
    low: float
    high: float
    change: float


@dataclass(frozen=True)
class RatingDocument:
    """Everything that ratings.json holds. Parts that the battles do not give are empty or None."""

    ratings: Ratings
    comparisons: tuple[PairedComparison, ...] = ()
    unclear: tuple[UnclearPair, ...] = ()
    next_pairs: tuple[NextPair, ...] = ()
    position: Interval | None = None
    style_effects: tuple[StyleEffect, ...] = ()
    style_ratings: tuple[StyleRating, ...] = ()
    length_controlled: tuple[LengthControlled, ...] = ()
    categories: tuple[CategoryRatings, ...] = ()
    category_spread: float | None = None
    runs: tuple[RatedRun, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def all_notes(self) -> list[str]:
        """The notes on the ratings, and those on the rest."""
        return [*self.ratings.notes, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """The content of ratings.json."""
        return {
            **self.ratings.to_json(),
            "notes": self.all_notes,
            "comparisons": [row.to_json() for row in self.comparisons],
            "not_distinguished": [asdict(pair) for pair in self.unclear[:MAX_UNCLEAR]],
            "not_distinguished_pairs": len(self.unclear),
            "next_pairs": [
                {"a": a, "b": b, "variance_removed": gain} for a, b, gain in self.next_pairs
            ],
            "position": None if self.position is None else self.position.to_json(),
            "style": {
                "effects": [asdict(effect) for effect in self.style_effects],
                "models": [asdict(row) for row in self.style_ratings],
            },
            "length_controlled": [row.to_json() for row in self.length_controlled],
            "categories": [row.to_json() for row in self.categories],
            "category_spread": self.category_spread,
            "runs": [run.to_json() for run in self.runs],
        }


def rating_document(
    table: BattleTable,
    ratings: Ratings,
    *,
    styles: Sequence[str] = (),
    prior: float = 0.0,
    positions: bool = False,
    constant: Sequence[str] = (),
) -> RatingDocument:
    """All that the battles of `table` say beside `ratings`, which are of the same battles.

    `styles` are the table's styles to control for; `positions` says that the first model of a
    battle is the one shown first; `constant` are models with one answer to every prompt.
    """
    confidence = ratings.confidence
    names = table.names
    document = RatingDocument(
        ratings,
        comparisons=paired_comparisons(table, confidence=confidence),
        position=position_effect(table, confidence=confidence) if positions else None,
        runs=rated_runs(ratings.models),
    )
    if table.lengths is not None:
        baseline = ratings.anchor or _most_battles(ratings)
        rates = length_controlled_rates(table, baseline, confidence=confidence)
        document = replace(document, length_controlled=rates)
    notes = [
        f"{name} gave one and the same answer to every prompt. Whatever it won says something "
        "about the judge and nothing about the model."
        for name in constant
    ]
    if not ratings.finite:
        document = replace(document, next_pairs=_joining_pairs(table))
        if styles or table.category is not None:
            notes.append("No ratings at equal style or by category without a common scale.")
        return replace(document, notes=(*notes, *_notes(document)))
    strengths = _strengths(ratings, names)
    covariance, _ = _covariance(table, strengths, ratings, prior)
    above = (
        ratings.above if ratings.above is not None else _above(strengths, covariance, confidence)
    )
    tie_share = float(TIES[table.outcome].mean())
    unclear = unclear_pairs(
        names, strengths, covariance, above, tie_share, ELO_PER_NAT, confidence=confidence
    )
    document = replace(
        document,
        unclear=tuple(unclear),
        next_pairs=tuple(next_pairs(names, strengths, covariance)),
    )
    if styles or table.category is not None:
        document, left_out = _at_half_ties(document, table, styles, prior)
        notes += left_out
    return replace(document, notes=(*notes, *_notes(document)))


def _at_half_ties(
    document: RatingDocument, table: BattleTable, styles: Sequence[str], prior: float
) -> tuple[RatingDocument, list[str]]:
    """The document with the ratings at equal style and by category, which take a tie for half a win
    and so start from ratings that do; and notes on what is left out."""
    notes = []
    ratings, names = document.ratings, table.names
    if ratings.ties != "half":
        ratings = rate_models(
            table,
            anchor=ratings.anchor,
            bootstrap=0,
            prior=prior,
            confidence=ratings.confidence,
        )
    anchors = [names.index(ratings.anchor)] if ratings.anchor else list(range(len(names)))
    if styles:
        try:
            effects, rows = _at_equal_style(table, styles, ratings, anchors)
            document = replace(document, style_effects=effects, style_ratings=rows)
        except WorkError:  # which a prior on the ratings does not prevent
            notes.append(
                "No ratings at equal style: without the prior no finite one fits all models."
            )
    if len(table.categories) > MAX_CATEGORIES:
        notes.append(
            f"No ratings by category: there are {len(table.categories):,}, and at most "
            f"{MAX_CATEGORIES} are rated. Name a column with fewer values."
        )
    elif table.category is not None:
        strengths = _strengths(ratings, names)
        covariance, design_effect = _covariance(table, strengths, ratings, prior)
        by_category, tau = rate_categories(
            table,
            strengths,
            covariance,
            anchors,
            design_effect=design_effect,
            confidence=ratings.confidence,
        )
        spread = float(ELO_PER_NAT * tau)
        document = replace(document, categories=by_category, category_spread=spread)
    return document, notes


def _strengths(ratings: Ratings, names: Sequence[str]) -> Floats:
    """The strengths [models] of mean 0 in the order of `names`."""
    by_name = {row.model: row.rating for row in ratings.models}
    strengths = np.array([by_name[name] for name in names])
    centred: Floats = (strengths - strengths.mean()) / ELO_PER_NAT
    return centred


def _covariance(
    table: BattleTable, strengths: Floats, ratings: Ratings, prior: float
) -> tuple[Floats, float]:
    """The sandwich covariance of the strengths, and how many times that of independent battles."""
    models = len(table.names)
    pseudo = prior / 2 * (1 - np.eye(models))
    parameter = ratings.tie_parameter or 0.0
    counts = table.counts()
    alone = units_of(counts, table.names, pseudo)
    plain = sandwich_covariance(alone, strengths, ratings.ties, parameter)
    if table.prompt is None:
        return plain, 1.0
    units = units_of(table, table.names, pseudo)
    clustered = sandwich_covariance(units, strengths, ratings.ties, parameter)
    return clustered, max(1.0, float(np.trace(clustered) / np.trace(plain)))


def _above(strengths: Floats, covariance: Floats, confidence: float) -> NDArray[np.bool_]:
    """Which models are surely above which, all at once at this level by Bonferroni's correction."""
    models = len(strengths)
    variance = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
    z = normal_quantile(1 - (1 - confidence) / max(1, models * (models - 1) // 2))
    difference = strengths[:, None] - strengths[None, :]
    above: NDArray[np.bool_] = difference > z * np.sqrt(np.clip(variance, 0, None))
    return above & ~np.eye(models, dtype=np.bool_)


def _at_equal_style(
    table: BattleTable,
    styles: Sequence[str],
    plain: Ratings,
    anchors: Sequence[int],
) -> tuple[tuple[StyleEffect, ...], tuple[StyleRating, ...]]:
    assert table.style is not None
    columns = [table.style_names.index(name) for name in styles]
    chosen = replace(table, style=table.style[:, columns], style_names=tuple(styles))
    fit = fit_style(chosen)
    models = len(table.names)
    contrast = np.eye(models)
    contrast[:, list(anchors)] -= 1 / len(anchors)
    ratings = to_elo(contrast @ fit.strengths)
    variance = np.diag(contrast @ fit.covariance[:models, :models] @ contrast.T)
    half = normal_quantile(plain.confidence) * ELO_PER_NAT * np.sqrt(np.clip(variance, 0, None))
    by_name = {row.model: row.rating for row in plain.models}
    rows = [
        StyleRating(
            name,
            float(ratings[i]),
            float(ratings[i] - half[i]),
            float(ratings[i] + half[i]),
            float(ratings[i] - by_name[name]),
        )
        for i, name in enumerate(table.names)
    ]
    rows.sort(key=lambda row: (-row.rating, row.model))
    return fit.effects(chosen.style_names, plain.confidence), tuple(rows)


def _most_battles(ratings: Ratings) -> str:
    return max(ratings.models, key=lambda row: (row.battles, row.model)).model


def _joining_pairs(table: BattleTable) -> tuple[NextPair, ...]:
    """Pairs that would join the groups without a common scale: the models with the most battles of
    the largest group and of each other one."""
    scores = score_matrix(outcome_matrices(table.counts(), table.names))
    labels = components(scores)
    battles = (scores + scores.T).sum(axis=1)
    best = [
        max(np.flatnonzero(labels == group).tolist(), key=lambda i: (battles[i], -i))
        for group in range(int(labels.max()) + 1)
    ]
    best.sort(key=lambda i: (-battles[i], i))
    return tuple((table.names[best[0]], table.names[other], None) for other in best[1:])


def _notes(document: RatingDocument) -> list[str]:
    notes = []
    if document.unclear:
        pairs = document.unclear[:NAMED]
        shown = "; ".join(f"{p.better} and {p.worse} ({_more(p)})" for p in pairs)
        left = len(document.unclear) - len(pairs)
        notes.append(f"Not distinguished: {shown}{f'; and {left} more pairs' if left else ''}.")
    if document.next_pairs:
        a, b, gain = document.next_pairs[0]
        why = "joins the groups" if gain is None else "lowers the ratings' variance most"
        notes.append(f"The next battle that {why} is {a} against {b}.")
    position = document.position
    if position is not None and _excludes(position, 0.5):
        notes.append(
            f"Position matters: of two equally strong models the first wins {position.mean:.1%} "
            f"({position.low:.1%} to {position.high:.1%})."
        )
    for effect in document.style_effects:
        if not effect.low <= 0 <= effect.high:
            notes.append(
                f"Style matters: a standard deviation more {effect.name} is worth "
                f"{effect.elo:+.0f} points ({effect.low:+.0f} to {effect.high:+.0f})."
            )
    for row in document.length_controlled:
        if _excludes(row.rate, row.raw):
            notes.append(
                f"Length matters: {row.model} wins {row.raw:.1%} against {row.baseline}, and "
                f"{row.rate.mean:.1%} ({row.rate.low:.1%} to {row.rate.high:.1%}) at equal length."
            )
    small = [row.category for row in document.categories if row.note]
    if small:
        left = len(small) - NAMED
        named = [*small[:NAMED], *([f"{left} more categories"] if left > 0 else [])]
        notes.append(f"Few battles in {join_names(named)}: shrunk toward the overall ratings.")
    return notes


def _excludes(interval: Interval, value: float) -> bool:
    return (interval.low is not None and interval.low > value) or (
        interval.high is not None and interval.high < value
    )


def _more(pair: UnclearPair) -> str:
    if pair.more_battles is None:
        return "equal so far: no number would do"
    return f"{pair.more_battles:,} more battle{'s' * (pair.more_battles > 1)}"
