"""A verdict is checked, and its responses become rows: each with rank, score and position."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, get_args

from accord.compare.store.verdicts import (
    NO_PREFERENCE,
    PAIR_OUTCOMES,
    STRENGTHS,
    Item,
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
    View,
)
from accord.errors import DataError

NO_RANKS = (None, None)
PAIR_RANKS: dict[str, tuple[int | None, int | None]] = {
    "a": (0, 1),
    "b": (1, 0),
    "tie": (0, 0),
    "both_bad": (0, 0),
    **dict.fromkeys(NO_PREFERENCE, NO_RANKS),
}
MAX_KEY = 200  # characters of a client's key
LONGEST_ITEM = 64  # characters of an item as ids; a longer one is given by its digest


def make_items(verdict: Verdict) -> list[Item]:
    """The responses of a verdict, each with its rank, score and position.

    Raises DataError where the verdict contradicts itself or a field has no value of its kind.
    """
    if isinstance(verdict, PairVerdict):
        items = _make_pair_items(verdict)
    elif isinstance(verdict, RankingVerdict):
        items = _make_ranking_items(verdict)
    else:
        items = [_make_rating_item(verdict)]
    _check_fields(verdict, [item.response_id for item in items])
    return items


def item_name(response_ids: Iterable[int]) -> str:
    """The responses that a verdict is on, whatever their order: what makes two verdicts comparable.

    Their ids, or of many the digest of these. Stores hold it: it never changes.
    """
    name = ",".join(map(str, sorted(response_ids)))
    return name if len(name) <= LONGEST_ITEM else sha256(name.encode()).hexdigest()


def _make_pair_items(verdict: PairVerdict) -> list[Item]:
    a, b = verdict.response_a, verdict.response_b
    if verdict.outcome not in PAIR_OUTCOMES:
        raise DataError(
            f"The outcome of responses {a} and {b} is {verdict.outcome!r}. "
            f"Give one of {', '.join(PAIR_OUTCOMES)}."
        )
    if a == b:
        raise DataError(f"Response {a} can't be compared with itself. Give two responses.")
    if verdict.strength is not None:
        about = f"The verdict on responses {a} and {b}"
        meaning = "1 (slightly better), 2 (better) or 3 (far better)"
        _check_strength(verdict.strength, about, meaning)
        if verdict.outcome not in ("a", "b"):
            raise DataError(
                f"{about} has the strength {verdict.strength} and the outcome {verdict.outcome}. "
                "Give a strength only where one of them is better."
            )
    _check_probability(verdict.probability, f"responses {a} and {b}")
    if verdict.shown_first not in (None, "a", "b"):
        raise DataError(
            f"The verdict on responses {a} and {b} has shown_first={verdict.shown_first!r}. "
            "Give a, b or nothing."
        )
    shown = {None: (None, None), "a": (0, 1), "b": (1, 0)}[verdict.shown_first]
    ranks = PAIR_RANKS[verdict.outcome]
    return [Item(a, ranks[0], shown=shown[0]), Item(b, ranks[1], shown=shown[1])]


def _check_strength(strength: int, about: str, meaning: str) -> None:
    if strength not in STRENGTHS or isinstance(strength, bool):
        raise DataError(f"{about} has the strength {strength!r}. Give {meaning}.")


def _check_probability(value: float | None, about: str) -> None:
    if value is not None and not 0 <= value <= 1:
        raise DataError(f"A verdict on {about} has the probability {value}. Give one in [0, 1].")


def _make_ranking_items(verdict: RankingVerdict) -> list[Item]:
    ids, ranks, shown = verdict.response_ids, verdict.ranks, verdict.shown
    _check_outcome(verdict, f"responses {list(ids)}", "ranks", has_content=bool(ranks))
    given: tuple[int | None, ...] = (None,) * len(ids) if verdict.outcome else ranks
    if len(ids) < 2 or len(set(ids)) < len(ids) or len(given) != len(ids):
        raise DataError(
            f"A ranking gives responses {list(ids)} the ranks {list(ranks)}. "
            "Give two or more different responses and a rank for each."
        )
    if ranks and (min(ranks) != 0 or any(rank != int(rank) for rank in ranks)):
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
        for id_, rank in zip(ids, given, strict=True)
    ]


def _make_rating_item(verdict: RatingVerdict) -> Item:
    id_, score = verdict.response_id, verdict.score
    _check_outcome(verdict, f"response {id_}", "a score", has_content=score is not None)
    if score is None and verdict.outcome is None:
        raise DataError(f"A rating of response {id_} has no score. Give a finite number.")
    if score is not None and not math.isfinite(score):
        raise DataError(f"A rating of response {id_} is {score}. Give a finite number.")
    if verdict.strength is not None:
        _check_strength(verdict.strength, f"A rating of response {id_}", "1 (slight) to 3 (severe)")
    return Item(id_, score=score)


def _check_outcome(
    verdict: RankingVerdict | RatingVerdict, about: str, content: str, *, has_content: bool
) -> None:
    outcome = verdict.outcome
    if outcome is not None and outcome not in NO_PREFERENCE:
        raise DataError(
            f"The outcome of a verdict on {about} is {outcome!r}. "
            f"Give one of {', '.join(NO_PREFERENCE)}, or none."
        )
    if outcome is not None and has_content:
        raise DataError(
            f"A verdict on {about} has the outcome {outcome} and {content}. Give one of them."
        )


def _check_fields(verdict: Verdict, ids: list[int]) -> None:
    about = f"A verdict on {'responses' if len(ids) > 1 else 'response'} {_join(ids)}"
    if not verdict.annotator:
        raise DataError(f"{about} names no annotator. Give a name.")
    if verdict.view not in (None, *get_args(View)):
        raise DataError(f"{about} has the view {verdict.view!r}. Give rendered, raw or nothing.")
    if verdict.seconds is not None and not 0 <= verdict.seconds < math.inf:
        raise DataError(f"{about} took {verdict.seconds} seconds. Give a number of 0 or more.")
    if verdict.key is not None and not 0 < len(verdict.key) <= MAX_KEY:
        raise DataError(
            f"{about} has a key of {len(verdict.key)} characters. Give 1 to {MAX_KEY}, such as "
            "a UUID, or no key."
        )
    if verdict.answers and verdict.judge is None:
        raise DataError(f"{about} has a judge's answers, but no judge. Give its fingerprint.")
    for answer in verdict.answers:
        _check_probability(answer.probability, f"responses {_join(answer.shown)}")
        if not set(answer.shown) <= set(ids):
            raise DataError(
                f"{about} has a judge's answer on responses {_join(answer.shown)}. "
                "Give answers on the verdict's own responses."
            )


def _join(ids: Iterable[Any]) -> str:
    return ", ".join(map(str, ids))
