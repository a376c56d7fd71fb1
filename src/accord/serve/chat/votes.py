"""Votes between the answers of two models, in the preference store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.compare.texts import replace_surrogates
from accord.records import Message, Outcome, Response

CHOICES = "1, 2, t (tie), b (both bad) or s (skip)"
WORDS: dict[str, Literal["first", "second", "tie", "both_bad", "skip"]] = {
    "1": "first",
    "2": "second",
    "t": "tie",
    "tie": "tie",
    "b": "both_bad",
    "both bad": "both_bad",
    "s": "skip",
    "skip": "skip",
    "": "skip",
}


@dataclass
class Ballot:
    """The votes of one person on the answers of `names`, in the store at `path`."""

    path: str
    annotator: str
    names: tuple[str, str]
    counts: dict[str, int] = field(
        default_factory=lambda: {"a": 0, "b": 0, "tie": 0, "both_bad": 0}
    )

    def __post_init__(self) -> None:
        PreferenceStore.open(self.path).close()  # a store that can't be written is said at once

    def add(
        self,
        turns: tuple[Message, ...],
        answers: tuple[Response, Response],
        outcome: Outcome,
        shown_first: Literal["a", "b"],
        seconds: float,
    ) -> None:
        """Store both answers and the vote on them; it is there before this returns."""
        verdict: dict[str, Any] = {
            "annotator": self.annotator,
            "shown_first": shown_first,
            "seconds": round(seconds, 3),
            "source": "person",
            "view": "raw",
            "key": uuid.uuid4().hex,
        }
        with PreferenceStore.open(self.path) as store:
            first, second = store.add_responses(list(answers))
            store.add_verdicts([PairVerdict(first, second, outcome, **verdict)])
        self.counts[outcome] += 1

    def summary(self) -> str:
        """The votes so far by model."""
        a, b = self.names
        counts = self.counts
        return (
            f"Votes: {a} {counts['a']}, {b} {counts['b']}, tie {counts['tie']}, both bad "
            f"{counts['both_bad']}; in {self.path}."
        )


def response(
    turns: tuple[Message, ...],
    text: str,
    model: str,
    settings: dict[str, Any],
    tokens: int | None,
    finished: bool,
) -> Response:
    """An answer as the store holds it."""
    return Response(
        turns, replace_surrogates(text), model, settings, tokens=tokens, finished=finished
    )
