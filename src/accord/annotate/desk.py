"""The work on one queue: the next item for a person, an answer, a step back, progress.

Each method is one transaction. An answer and the end of its assignment are written together, and
the method returns after both are on disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from accord.annotate import answers
from accord.annotate.answers import PageAnswer
from accord.compare.store import assignments, people, votes
from accord.compare.store.assignments import Assignment, Lease
from accord.compare.store.connection import transaction
from accord.compare.store.items import make_items
from accord.compare.store.people import Person
from accord.compare.store.queue import ItemTexts, Queue, count_items, read_texts
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import Verdict
from accord.errors import ConflictError, RequestError
from accord.settings.annotate import AnnotateSettings

STATES = {
    "vote": assignments.VOTED,
    "skip": assignments.SKIPPED,
    "flag": assignments.FLAGGED,
}
ADJUDICATOR = " (adjudicator)"
RED_TEAM = "red team"  # the criterion of verdicts on conversations


@dataclass(frozen=True, slots=True)
class Saved:
    """An answer that is on disk: the verdict's id, None for an attention check's."""

    verdict_id: int | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Desk:
    """A queue at work. `guideline` is the SHA-256 of the guideline that people read; `clock`
    returns seconds since 1970. Threads take `turn` to write: a database lets those that wait for
    its lock sleep for longer."""

    store: PreferenceStore
    queue: Queue
    settings: AnnotateSettings
    guideline: str | None = None
    clock: Callable[[], float] = time.time
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lease(self) -> Lease:
        return Lease(
            seconds=self.settings.lease_minutes * 60,
            seed=self.settings.seed,
            check_every=self.settings.check_every if self.settings.checks else 0,
            by_criterion=len(self.settings.criteria) > 1,
            escalated=self.settings.items == "escalated",
        )

    def next(self, annotator: str) -> Assignment | None:
        """The item to judge now: the open one, or another; None where there is none left."""
        with self.writing() as connection:
            return assignments.next_assignment(
                connection, self.queue, annotator, self.lease, self.clock()
            )

    def adjudicate(self, item_id: int, owner: str) -> Assignment | None:
        """The item for the owner to decide, beside the votes of its annotators."""
        with self.writing() as connection:
            return assignments.adjudicate_item(
                connection, self.queue, item_id, owner + ADJUDICATOR, self.lease, self.clock()
            )

    def texts(self, assignment: Assignment) -> ItemTexts:
        """What an assignment's item shows, in the order in which it is shown."""
        with self.reading() as connection:
            texts = read_texts(connection, assignment.item)
        return ItemTexts(
            texts.prompt,
            tuple(texts.responses[index] for index in assignment.shown),
            tuple(texts.models[index] for index in assignment.shown),
        )

    def assigned(self, annotator: str, item_id: int) -> Assignment | None:
        """The annotator's assignment of an item, whatever its state."""
        with self.reading() as connection:
            return assignments.find_assignment(connection, self.queue, item_id, annotator)

    def earlier(self, annotator: str, before: float | None) -> Assignment | None:
        """The item answered last, or last before a time, to be answered again."""
        with self.reading() as connection:
            return assignments.latest_answered(connection, self.queue, annotator, before)

    def renew(self, annotator: str, item_id: int) -> bool:
        """Extend the lease of an item; whether the annotator still has it."""
        with self.writing() as connection:
            mine = assignments.find_assignment(connection, self.queue, item_id, annotator)
            expires = self.clock() + self.lease.seconds
            return mine is not None and assignments.renew(connection, mine.id, expires)

    def answer(
        self, annotator: str, item_id: int, body: Mapping[str, Any], *, session: str
    ) -> Saved:
        """Store an answer, which may be sent again without effect.

        Raises RequestError where it is malformed, ConflictError where the item is not the
        annotator's to judge: someone else has it by now, or it is judged in another window.
        """
        with self.writing() as connection:
            overlap = assignments.lock_queue(connection, self.queue)
            now = self.clock()
            assignment = assignments.find_assignment(connection, self.queue, item_id, annotator)
            if assignment is not None and assignment.state == assignments.EXPIRED:
                # Whoever was given the item since may have left too.
                assignments.release_expired(connection, self.queue, now)
                assignment = assignments.find_assignment(connection, self.queue, item_id, annotator)
            if assignment is None:
                raise ConflictError("This item was never yours to judge. Load the page again.")
            answer = answers.read_answer(body, self.settings, assignment.item.size)
            if assignment.key == answer.key:
                return Saved(assignment.verdict_id, assignment.correct)
            if assignment.state != assignments.OPEN:
                stored = assignments.verdict_with_key(connection, annotator, answer.key)
                if stored is not None:
                    return Saved(stored, None)
            _check_may_answer(assignment, answer, overlap)
            return self._write_answer(connection, assignment, answer, session, now)

    def count_items(self) -> int:
        """The number of items, without attention checks."""
        with self.reading() as connection:
            return count_items(connection, self.queue, escalated=self.lease.escalated)

    def progress(self, annotator: str) -> dict[str, Any]:
        """How many items are done, how many remain, and the median seconds of an answer."""
        with self.reading() as connection:
            done, remaining = assignments.count_votes(
                connection, self.queue, annotator, escalated=self.lease.escalated
            )
            seconds = assignments.recent_seconds(connection, self.queue, annotator)
        median = sorted(seconds)[len(seconds) // 2] if seconds else None
        return {"done": done, "remaining": remaining, "seconds": median}

    def test_passed(self, annotator: str) -> bool:
        """Whether the annotator may judge: there is no test, or it is passed."""
        if not self.settings.test or self.guideline is None:
            return True
        with self.reading() as connection:
            return people.has_passed(connection, annotator, self.guideline)

    def take_test(self, annotator: str, chosen: list[int]) -> list[int]:
        """Store the answers to the test, numbered from 1; the numbers of the wrong ones."""
        wrong = [
            number
            for number, (question, answer) in enumerate(
                zip(self.settings.test, chosen, strict=True), start=1
            )
            if question.correct != answer
        ]
        with self.writing() as connection:
            people.add_test(connection, annotator, self.guideline or "", chosen, passed=not wrong)
        return wrong

    def person(self, secret: str) -> Person | None:
        """The person in a session."""
        with self.reading() as connection:
            return people.person_of(connection, secret)

    def enter(self, token: str) -> str | None:
        """The secret of a new session for a token."""
        with self.writing() as connection:
            return people.enter(connection, token)

    def leave(self, secret: str) -> None:
        """End a session."""
        with self.writing() as connection:
            people.leave(connection, secret)

    def _write_answer(
        self,
        connection: sa.Connection,
        assignment: Assignment,
        answer: PageAnswer,
        session: str,
        now: float,
    ) -> Saved:
        item = assignment.item
        verdict_id = None
        if item.content is None:
            verdict = self._make_verdict(assignment, answer, session)
            verdict_id = votes.add_verdicts(connection, [verdict], [make_items(verdict)])[0]
        correct = None
        if answer.action == "vote" and item.expected is not None:
            ranks = answers.ranks_by_response(answer, assignment.shown)
            correct = answers.is_correct(ranks, item.expected)
        state = STATES[answer.action]
        if assignment.state in (assignments.ADJUDICATING, assignments.ADJUDICATED):
            state = assignments.ADJUDICATED
        assignments.close_assignment(
            connection,
            assignment,
            state,
            closed=now,
            verdict_id=verdict_id,
            key=answer.key,
            answer=answer.as_json(),
            correct=correct,
            fast=self.settings.task != "redteam"
            and self._is_fast(answer, read_texts(connection, item)),
        )
        return Saved(verdict_id, correct)

    def _make_verdict(self, assignment: Assignment, answer: PageAnswer, session: str) -> Verdict:
        ids = assignment.item.response_ids
        fields: dict[str, Any] = {
            "annotator": assignment.annotator,
            "round": self.settings.round,
            "guideline": self.guideline,
            "session": session,
            "source": "person",
            "supersedes": assignment.verdict_id,
        }
        if self.settings.task == "redteam":
            if not ids:
                raise RequestError("Nothing was said in this conversation yet.")
            return answers.make_chat_verdict(answer, ids, criterion=RED_TEAM, **fields)
        kind, criterion = self.settings.task, assignment.item.criterion
        return answers.make_verdict(
            answer, ids, assignment.shown, kind=kind, criterion=criterion, **fields
        )

    def _is_fast(self, answer: PageAnswer, texts: ItemTexts) -> bool:
        """Whether the responses were not read: a first vote came faster than anyone reads."""
        if answer.action != "vote" or answer.revises is not None or answer.seconds is None:
            return False
        words = sum(len(text.split()) for text in texts.responses)
        return answer.seconds < words / self.settings.words_per_second

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes, one at a time."""
        with (
            self.turn,
            transaction(self.store.engine, self.store.path, writes=True) as connection,
        ):
            yield connection

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection that only reads."""
        engine = self.store.engine
        if engine.dialect.name != "sqlite":  # BEGIN and COMMIT are two more messages each
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        return transaction(engine, self.store.path, writes=False)


def _check_may_answer(assignment: Assignment, answer: PageAnswer, overlap: int) -> None:
    """Raise ConflictError where this answer would be one too many."""
    if assignment.state in (assignments.OPEN, assignments.ADJUDICATING):
        return
    if assignment.state != assignments.EXPIRED:
        if answer.revises is None or answer.revises != (assignment.verdict_id or 0):
            raise ConflictError(
                "You have answered this item already, perhaps in another window. The answer there "
                "stands; press u to change it."
            )
        if assignment.state in (assignments.VOTED, assignments.ADJUDICATED):
            return
    if answer.action == "vote" and assignment.item.taken >= overlap:
        raise ConflictError(
            "Someone else has judged this item meanwhile, because there was no sign from your page "
            "for too long. Your answer is not stored; here is another item."
        )
