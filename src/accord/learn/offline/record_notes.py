"""What a method does not learn of its records, counted as they pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from accord.learn.offline.methods import Method
from accord.reasoning import answer_of
from accord.records import Comparison, Ranking, Record


@dataclass(slots=True)
class RecordNotes:
    """Counts of what `method` does not learn from. With `answers_alone` responses pass without
    their reasoning, as a reward model reads them; one whose reasoning never ends is empty."""

    method: Method[Any]
    answers_alone: bool
    margins: int = 0
    soft: int = 0
    voted: int = 0
    reasoned: int = 0

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records as the method reads them."""
        for record in records:
            if isinstance(record, Comparison):
                self.margins += record.margin is not None
                self.soft += record.probability is not None
            elif isinstance(record, Ranking):
                self.voted += bool(record.votes)
            answer = _answers_of(record) if self.answers_alone else record
            self.reasoned += answer != record
            yield answer

    def notes(self) -> list[str]:
        """For the report, once all have passed."""
        notes = []
        if self.margins and not self.method.uses_margins:
            notes.append(
                f"the margins of {self.margins:,} pairs are not used: only `reward` learns from "
                "them"
            )
        if self.soft and self.method.kind != "preferences":
            notes.append(
                f"the soft labels of {self.soft:,} pairs are not used: the response that most "
                "votes prefer is the chosen one"
            )
        if self.voted and self.method.kind != "preferences":
            notes.append(
                f"of {self.voted:,} rankings of several annotators the order that they give "
                "together is used (Borda count)"
            )
        if self.reasoned:
            notes.append(
                f"the reasoning in the responses of {self.reasoned:,} records is not read: a "
                "reward model scores answers"
            )
        return notes


def _answers_of(record: Record) -> Record:
    if isinstance(record, Comparison):
        chosen, rejected = answer_of(record.chosen), answer_of(record.rejected)
        return replace(record, chosen=chosen, rejected=rejected)
    if isinstance(record, Ranking):
        return replace(record, responses=tuple(map(answer_of, record.responses)))
    return record
