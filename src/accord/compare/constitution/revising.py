"""Critique and revision of responses over several rounds, by a reviser of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from accord.compare.constitution.principles import Principle
from accord.compare.constitution.reading import (
    Critique,
    DropReason,
    read_critique,
    read_revision,
    revision_fault,
)
from accord.compare.constitution.requests import critique_question, revision_question
from accord.records import Prompt, prompt_text


@dataclass(frozen=True, slots=True)
class Written:
    """What a reviser wrote; `finished` is False where it was cut at its limit."""

    text: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class NotWritten:
    """Why a reviser wrote nothing."""

    reason: str


Answer = Written | NotWritten


@dataclass(frozen=True, slots=True)
class Draft:
    """A response that is examined by a principle. `stream` numbers the random draws for it."""

    prompt: Prompt
    response: str
    principle: Principle
    stream: int
    critique: str = ""


class Reviser(Protocol):
    """Writes critiques of drafts, and revisions of drafts with their critiques."""

    def critique(self, drafts: Sequence[Draft], /) -> Sequence[Answer]: ...

    def revise(self, drafts: Sequence[Draft], /) -> Sequence[Answer]: ...


Outcome = Literal["no issue", "revised", "dropped", "no critique"]


@dataclass(frozen=True, slots=True)
class RevisionRound:
    """One round on a response: the principle's id, the two questions, what was written, and what
    came of it. `reason` says why there is no critique, or why the revision was dropped."""

    principle: str
    outcome: Outcome
    critique_request: str
    revision_request: str
    critique: str | None = None
    revision: str | None = None
    reason: str | None = None


@dataclass
class Revised:
    """A response with the rounds on it. `text` is the response after the last of them."""

    prompt: Prompt
    original: str
    text: str = ""
    rounds: list[RevisionRound] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.text or self.original

    @property
    def changed(self) -> bool:
        return any(each.outcome == "revised" for each in self.rounds)

    @property
    def faultless(self) -> bool:
        """Whether it was examined, and every round found nothing."""
        return bool(self.rounds) and all(each.outcome == "no issue" for each in self.rounds)


def revise_responses(
    responses: Sequence[tuple[Prompt, str]],
    principles: Sequence[Sequence[Principle]],
    reviser: Reviser,
    *,
    first_row: int,
) -> list[Revised]:
    """Each response after one round for each of its principles.

    A round criticises the response that the round before left, and revises it only where the
    critique found something. A revision that is none is dropped, and the response stays. A response
    without text is not examined: it has no rounds.
    `first_row` is the number of the first response, which with the round numbers its random draws.
    """
    states = [Revised(prompt, text) for prompt, text in responses]
    examined = [i for i, state in enumerate(states) if state.original.strip()]
    for number in range(len(principles[0]) if examined else 0):
        _run_round(
            {i: states[i] for i in examined},
            {i: principles[i][number] for i in examined},
            reviser,
            {i: (first_row + i) * 2000 + number * 2 for i in examined},
        )
    return states


def _run_round(
    states: Mapping[int, Revised],
    principles: Mapping[int, Principle],
    reviser: Reviser,
    streams: Mapping[int, int],
) -> None:
    drafts = {
        i: Draft(state.prompt, state.text, principles[i], streams[i]) for i, state in states.items()
    }
    asked = reviser.critique(list(drafts.values()))
    critiques = {i: _read(answer) for i, answer in zip(drafts, asked, strict=True)}
    faulty = {
        i: replace(drafts[i], stream=streams[i] + 1, critique=critique.text)
        for i, critique in critiques.items()
        if isinstance(critique, Critique) and critique.finds_fault
    }
    revisions = dict(zip(faulty, reviser.revise(list(faulty.values())), strict=True))
    for i, state in states.items():
        finished = _finish_round(drafts[i], critiques[i], revisions.get(i))
        state.rounds.append(finished)
        if finished.outcome == "revised":
            state.text = str(finished.revision)


def _read(answer: Answer) -> Critique | NotWritten:
    """The critique. One that was cut finds a fault: its end might have taken praise back."""
    if isinstance(answer, NotWritten):
        return answer
    critique = read_critique(answer.text)
    if critique is None:
        return NotWritten("empty, or thoughts without an end")
    return critique if answer.finished else replace(critique, finds_fault=True)


def _finish_round(
    draft: Draft, critique: Critique | NotWritten, answer: Answer | None
) -> RevisionRound:
    principle = draft.principle
    questions = critique_question(principle), revision_question(principle)
    if isinstance(critique, NotWritten):
        return RevisionRound(principle.id, "no critique", *questions, reason=critique.reason)
    if answer is None:
        return RevisionRound(principle.id, "no issue", *questions, critique.text)
    if isinstance(answer, NotWritten):
        return RevisionRound(
            principle.id, "dropped", *questions, critique.text, reason=answer.reason
        )
    revision = read_revision(answer.text)
    if revision is None:
        fault: DropReason | None = "unfinished thoughts"
    else:
        fault = revision_fault(
            revision,
            original=draft.response,
            prompt=prompt_text(draft.prompt),
            critique=critique.text,
            requests=questions,
            finished=answer.finished,
        )
    outcome: Outcome = "revised" if fault is None else "dropped"
    text = answer.text if revision is None else revision
    return RevisionRound(principle.id, outcome, *questions, critique.text, text, fault)
