"""Verdicts of an annotator on responses: a pair's winner, a ranking of K, a rating of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from accord.errors import DataError
from accord.records import Outcome


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Which of two responses to one prompt is better. Responses are given by their ids.

    `shown_first` is the side that the annotator saw first (left), `seconds` how long it took.
    """

    response_a: int
    response_b: int
    outcome: Outcome
    annotator: str
    round: int = 0
    reason: str | None = None
    shown_first: Literal["a", "b"] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RankingVerdict:
    """The ranks of K responses to one prompt: `ranks[i]` is that of `response_ids[i]`, 0 best.

    `shown` holds the response ids in the order in which the annotator saw them.
    """

    response_ids: tuple[int, ...]
    ranks: tuple[int, ...]
    annotator: str
    round: int = 0
    reason: str | None = None
    shown: tuple[int, ...] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RatingVerdict:
    """One response with an absolute score; a thumbs-up is 1, a thumbs-down 0."""

    response_id: int
    score: float
    annotator: str
    round: int = 0
    reason: str | None = None
    seconds: float | None = None


Verdict = PairVerdict | RankingVerdict | RatingVerdict


@dataclass(frozen=True, slots=True)
class Item:
    """One response in a verdict; `shown` is the position at which it was seen, 0 first."""

    response_id: int
    rank: int | None = None
    score: float | None = None
    shown: int | None = None


PAIR_RANKS: dict[Outcome, tuple[int, int]] = {
    "a": (0, 1),
    "b": (1, 0),
    "tie": (0, 0),
    "both_bad": (0, 0),
}


def make_items(verdict: Verdict) -> list[Item]:
    """The responses of a verdict, each with its rank, score and position.

    Raises DataError where the verdict contradicts itself.
    """
    if isinstance(verdict, PairVerdict):
        return _make_pair_items(verdict)
    if isinstance(verdict, RankingVerdict):
        return _make_ranking_items(verdict)
    if not math.isfinite(verdict.score):
        raise DataError(
            f"A rating of response {verdict.response_id} is {verdict.score}. Give a finite number."
        )
    return [Item(verdict.response_id, score=verdict.score)]


def _make_pair_items(verdict: PairVerdict) -> list[Item]:
    a, b = verdict.response_a, verdict.response_b
    if verdict.outcome not in get_args(Outcome):
        raise DataError(
            f"The outcome of responses {a} and {b} is {verdict.outcome!r}. "
            f"Give one of {', '.join(get_args(Outcome))}."
        )
    if a == b:
        raise DataError(f"Response {a} can't be compared with itself. Give two responses.")
    shown = {None: (None, None), "a": (0, 1), "b": (1, 0)}[verdict.shown_first]
    ranks = PAIR_RANKS[verdict.outcome]
    return [Item(a, ranks[0], shown=shown[0]), Item(b, ranks[1], shown=shown[1])]


def _make_ranking_items(verdict: RankingVerdict) -> list[Item]:
    ids, ranks, shown = verdict.response_ids, verdict.ranks, verdict.shown
    if len(ids) < 2 or len(set(ids)) < len(ids) or len(ranks) != len(ids):
        raise DataError(
            f"A ranking gives responses {list(ids)} the ranks {list(ranks)}. "
            "Give two or more different responses and a rank for each."
        )
    if min(ranks) != 0 or any(rank != int(rank) for rank in ranks):
        raise DataError(
            f"A ranking gives responses {list(ids)} the ranks {list(ranks)}. "
            "Give whole numbers of which the best is 0."
        )
    if shown is not None and sorted(shown) != sorted(ids):
        raise DataError(
            f"A ranking of responses {list(ids)} says that {list(shown)} were shown. "
            "Give the same responses in the order shown."
        )
    return [
        Item(id_, rank, shown=None if shown is None else shown.index(id_))
        for id_, rank in zip(ids, ranks, strict=True)
    ]
