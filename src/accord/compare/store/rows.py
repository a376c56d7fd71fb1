"""What is read back from a preference store, and which verdicts are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from accord.compare.store.verdicts import Item, PairOutcome, View
from accord.reasoning import answer_of
from accord.records import Prompt, Response

VerdictKind = Literal["pair", "ranking", "rating"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which verdicts to read: those with one of the values of every field that is given.

    A criterion of None is the whole; `items` are named by `item_name`. `history` reads all that was
    ever said; without it, of the verdicts of one annotator on the same responses and criterion the
    latest of those selected counts, and one that another replaces does not.
    """

    kind: VerdictKind | None = None
    rounds: tuple[int, ...] | None = None
    annotators: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    criteria: tuple[str | None, ...] | None = None
    items: tuple[str, ...] | None = None
    history: bool = False


class Facet(NamedTuple):
    """How many verdicts that count share these values; `judge` is a fingerprint's digest."""

    kind: VerdictKind
    source: str | None
    round: int
    annotator: str
    criterion: str | None
    judge: str | None
    verdicts: int


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt with its id."""

    id: int
    prompt: Prompt
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with its id and its prompt's."""

    id: int
    prompt_id: int
    response: Response


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict with its id, and its items in the order in which they were added.

    `judge` is the digest of the judge's fingerprint; the other fields are as `PairVerdict`,
    `RankingVerdict` and `RatingVerdict` have them.
    """

    id: int
    prompt_id: int
    kind: VerdictKind
    annotator: str
    round: int
    outcome: PairOutcome | None
    reason: str | None
    seconds: float | None
    created: str
    items: tuple[Item, ...]
    criterion: str | None = None
    strength: int | None = None
    probability: float | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    guideline: str | None = None
    view: View | None = None
    session: str | None = None
    source: str | None = None
    key: str | None = None
    supersedes: int | None = None
    judge: str | None = None


class JudgedResponse(NamedTuple):
    """A response's text, the model that wrote it, whether it ended with EOS, and what the rendered
    prompt already wrote of it."""

    text: str
    model: str
    finished: bool
    opened: str = ""

    @property
    def answer(self) -> str:
        """The text behind the reasoning; empty where that never ends."""
        return answer_of(self.text, self.opened)
