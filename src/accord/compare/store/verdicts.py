"""Verdicts of an annotator on responses: a pair's winner, a ranking of K, a rating of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from accord.compare.store.fingerprint import JudgeAnswer, JudgeFingerprint
from accord.records import Outcome

NoPreference = Literal["skip", "flag", "undecided"]
"""What an annotator gives instead of a preference: a skip with its `reason`, a flag that the item
has a fault, or of a judge `undecided`: its two orders disagree. None of them is a tie."""

PairOutcome = Outcome | NoPreference
View = Literal["rendered", "raw"]

NO_PREFERENCE: tuple[str, ...] = get_args(NoPreference)
PAIR_OUTCOMES: tuple[str, ...] = (*get_args(Outcome), *NO_PREFERENCE)
STRENGTHS = (1, 2, 3)  # slightly better, better, far better


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFields:
    """What every verdict may hold beside its content.

    `criterion` is what was judged, None for the whole. `tags` are reasons chosen from a list,
    `comment` is free text. `guideline` is the SHA-256 of the guideline that the annotator read,
    `view` whether responses were shown rendered or as raw text, `session` the annotator's visit.
    `source` says where the verdict comes from, such as `person`, `judge` or an imported file.
    `key` is the client's unique key: a verdict with a key that the store has is not added again.
    `supersedes` is the id of the same annotator's verdict that this one replaces; where it is left
    out, it is their latest on the same responses and criterion. A judge's verdict has its
    fingerprint, and the raw answers that it was read from.
    """

    criterion: str | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    guideline: str | None = None
    view: View | None = None
    session: str | None = None
    source: str | None = None
    key: str | None = None
    supersedes: int | None = None
    judge: JudgeFingerprint | None = None
    answers: tuple[JudgeAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class PairVerdict(VerdictFields):
    """Which of two responses to one prompt is better. Responses are given by their ids.

    `shown_first` is the side that the annotator saw first (left), `seconds` how long it took.
    `strength` says how much better the winner is, from 1 (slightly) to 3 (far). `probability` is
    that of `a` being the better one, in [0, 1], where the annotator gives one.
    """

    response_a: int
    response_b: int
    outcome: PairOutcome
    annotator: str
    round: int = 0
    reason: str | None = None
    shown_first: Literal["a", "b"] | None = None
    seconds: float | None = None
    strength: int | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class RankingVerdict(VerdictFields):
    """The ranks of K responses to one prompt: `ranks[i]` is that of `response_ids[i]`, 0 best.

    `shown` holds the response ids in the order in which the annotator saw them. With an `outcome`
    there is no ranking, and `ranks` is empty.
    """

    response_ids: tuple[int, ...]
    ranks: tuple[int, ...]
    annotator: str
    round: int = 0
    reason: str | None = None
    shown: tuple[int, ...] | None = None
    seconds: float | None = None
    outcome: NoPreference | None = None


@dataclass(frozen=True, slots=True)
class RatingVerdict(VerdictFields):
    """One response with an absolute score; a thumbs-up is 1, a thumbs-down 0.

    With an `outcome` there is no score. `strength` says how far a response is from good, from 1
    (slightly) to 3 (far).
    """

    response_id: int
    score: float | None
    annotator: str
    round: int = 0
    reason: str | None = None
    seconds: float | None = None
    outcome: NoPreference | None = None
    strength: int | None = None


Verdict = PairVerdict | RankingVerdict | RatingVerdict


@dataclass(frozen=True, slots=True)
class Item:
    """One response in a verdict; `shown` is the position at which it was seen, 0 first."""

    response_id: int
    rank: int | None = None
    score: float | None = None
    shown: int | None = None
