"""The work of a red team: a person talks with a model, then says whether and what broke.

A message and the answer to it are stored together, before the answer is shown, under the message's
key: a message that is sent twice, or again after a crash, is answered once.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accord.annotate.answers import clean_text, read_key
from accord.annotate.chat_model import ChatAnswer, ChatModel
from accord.annotate.desk import Desk
from accord.compare.store import assignments, chats
from accord.compare.store.assignments import Assignment
from accord.compare.store.chats import Chat, answer_key
from accord.compare.store.queue import lock_queue
from accord.errors import AccordError, ConflictError, RequestError
from accord.records import Message, Response

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 50_000  # characters
MOST_ANSWERS = 200  # of one conversation
MOVED_ON = (
    "The conversation went on in another window. Here it is as it is now; your message is still in "
    "the box."
)


@dataclass(frozen=True, slots=True)
class ChatDesk:
    """The conversations of a queue. `talking` has a lock for each conversation that is waiting for
    the model."""

    desk: Desk
    model: ChatModel
    talking: dict[int, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def open(self, annotator: str) -> tuple[Assignment, Chat]:
        """The annotator's open conversation, or a new one."""
        with self.desk.writing() as connection:
            assignment = chats.open_chat(connection, self.desk.queue, annotator, self.desk.clock())
            return assignment, chats.read_chat(connection, assignment.item)

    def find(self, annotator: str, item_id: int) -> tuple[Assignment, Chat]:
        """A conversation of the annotator's. Raises RequestError where it is not theirs."""
        with self.desk.reading() as connection:
            assignment = assignments.find_assignment(
                connection, self.desk.queue, item_id, annotator
            )
            if assignment is None:
                raise RequestError("This conversation is not yours to see.")
            return assignment, chats.read_chat(connection, assignment.item)

    def say(self, annotator: str, item_id: int, body: Mapping[str, Any]) -> tuple[Assignment, Chat]:
        """Send a message to the model, and store it with the answer; the conversation after it.

        Raises RequestError where the message or the model's answer can't be had, ConflictError
        where the conversation went on elsewhere.
        """
        text, key = _read_message(body), answer_key(annotator, read_key(body))
        with self.talking[item_id]:  # a message that was sent twice waits for the first's answer
            assignment, chat = self.find(annotator, item_id)
            if not self._is_stored(key):
                _check_continues(assignment, chat, body)
                turns = (*(chat.turns or self._system()), Message("user", text))
                answer = self._ask(turns, assignment, chat)
                self._store(assignment, chat, turns, answer, key)
        return self.find(annotator, item_id)

    def _system(self) -> tuple[Message, ...]:
        settings = self.desk.settings.chat
        return (
            () if settings is None or not settings.system else (Message("system", settings.system),)
        )

    def _is_stored(self, key: str) -> bool:
        with self.desk.reading() as connection:
            return chats.has_answer(connection, key)

    def _ask(self, turns: tuple[Message, ...], assignment: Assignment, chat: Chat) -> ChatAnswer:
        stream = assignment.item.id * MOST_ANSWERS + chat.answers  # draws of its own
        try:
            return self.model.answer(turns, seed=self.desk.settings.seed, stream=stream)
        except AccordError as error:
            raise RequestError(f"The model gave no answer: {error}") from error
        except Exception as error:  # of a model's code, or its memory: the person can go on
            log.exception("The model failed.")
            raise RequestError(
                f"The model failed ({type(error).__name__}). Send it again, or ask the owner."
            ) from error

    def _store(
        self,
        assignment: Assignment,
        chat: Chat,
        turns: tuple[Message, ...],
        answer: ChatAnswer,
        key: str,
    ) -> None:
        response = Response(
            turns,
            clean_text(answer.text),
            self.model.name,
            {**self.model.settings, "seed": self.desk.settings.seed},
            logp=answer.logp,
            tokens=answer.tokens,
            finished=answer.finished,
            opened=answer.opened,
        )
        with self.desk.writing() as connection:
            lock_queue(connection, self.desk.queue)
            now = assignments.find_assignment(
                connection, self.desk.queue, assignment.item.id, assignment.annotator
            )
            if chats.has_answer(connection, key):
                return  # another server was faster
            if now is None or now.state != assignments.OPEN or now.item.size != chat.answers:
                raise ConflictError(MOVED_ON)
            chats.add_answer(connection, now.item, response, key)


def _read_message(body: Mapping[str, Any]) -> str:
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        raise RequestError("Write a message first.")
    if len(text) > LONGEST_MESSAGE:
        raise RequestError(f"A message has at most {LONGEST_MESSAGE:,} characters.")
    return clean_text(text)


def _check_continues(assignment: Assignment, chat: Chat, body: Mapping[str, Any]) -> None:
    if assignment.state != assignments.OPEN or body.get("after") != chat.answers:
        raise ConflictError(MOVED_ON)
    if chat.answers >= MOST_ANSWERS:
        raise RequestError(
            f"A conversation has at most {MOST_ANSWERS} answers. Say what broke, or start another."
        )
