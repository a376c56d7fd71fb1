"""Conversations of people with a model, as the red team has them.

A conversation is an item of a queue whose responses are the model's answers in order; an answer's
prompt is all that was said before, so the last answer with its prompt is the whole transcript. It
is one person's, open until it has a verdict.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256

import sqlalchemy as sa

from accord.compare.store.assignments import OPEN, Assignment, find_assignment, select_answered
from accord.compare.store.inserts import add_responses
from accord.compare.store.queue import Queue, QueueItem, lock_queue
from accord.compare.store.queue_schema import ASSIGNMENTS, ITEMS
from accord.compare.store.schema import PROMPTS, RESPONSES
from accord.reasoning import whole_text
from accord.records import Message, Response, prompt_from_json

FOREVER = 1e12  # seconds since 1970: nobody else is waiting for a conversation


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; `turns` are all of them, a system turn too, and `finished[i]` says whether
    the model ended its i-th answer itself."""

    turns: tuple[Message, ...] = ()
    finished: tuple[bool, ...] = ()

    @property
    def answers(self) -> int:
        """The number of the model's answers."""
        return len(self.finished)


def open_chat(connection: sa.Connection, queue: Queue, annotator: str, now: float) -> Assignment:
    """The annotator's open conversation, or a new one."""
    lock_queue(connection, queue)
    for assignment in select_answered(connection, queue, (OPEN,)):
        if assignment.annotator == annotator:
            return assignment
    batch = secrets.token_hex(32)
    item_id = connection.scalar(
        ITEMS.insert()
        .values(
            queue_id=queue.id,
            digest=batch,
            batch=batch,
            response_ids=[],
            is_check=False,
            taken=1,  # its person's; nobody else is given it
        )
        .returning(ITEMS.c.id)
    )
    assigned = {"item_id": item_id, "annotator": annotator, "state": OPEN, "shown": []}
    connection.execute(ASSIGNMENTS.insert().values(**assigned, opened=now, expires=FOREVER))
    new = find_assignment(connection, queue, int(item_id or 0), annotator)
    assert new is not None
    return new


def add_answer(connection: sa.Connection, item: QueueItem, response: Response, key: str) -> None:
    """Add an answer of the model to a locked queue's conversation, which has its earlier turns."""
    (id_,) = add_responses(connection, [response], [key])
    connection.execute(
        ITEMS.update().where(ITEMS.c.id == item.id).values(response_ids=[*item.response_ids, id_])
    )


def has_answer(connection: sa.Connection, key: str) -> bool:
    """Whether the answer to the message with this key is stored."""
    return connection.scalar(sa.select(RESPONSES.c.id).where(RESPONSES.c.key == key)) is not None


def answer_key(annotator: str, key: str) -> str:
    """What the answer to a message is stored under: no other annotator's key is the same."""
    return sha256(f"chat\0{annotator}\0{key}".encode()).hexdigest()


def read_chat(connection: sa.Connection, item: QueueItem) -> Chat:
    """The turns of a conversation."""
    if not item.response_ids:
        return Chat()
    query = (
        sa.select(RESPONSES.c.text, RESPONSES.c.opened, PROMPTS.c.content)
        .join(PROMPTS, PROMPTS.c.id == RESPONSES.c.prompt_id)
        .where(RESPONSES.c.id == item.response_ids[-1])
    )
    last = connection.execute(query).one()
    of_answers = sa.select(RESPONSES.c.id, RESPONSES.c.finished).where(
        RESPONSES.c.id.in_(item.response_ids)
    )
    ended = {row.id: row.finished for row in connection.execute(of_answers)}
    turns = prompt_from_json(last.content)
    assert not isinstance(turns, str)
    return Chat(
        (*turns, Message("assistant", whole_text(last.text, last.opened))),
        tuple(ended[id_] for id_ in item.response_ids),
    )
