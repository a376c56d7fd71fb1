"""Queues of the annotation page: a queue is one task for people, an item one question in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from accord.compare.store.inserts import CHUNK, now
from accord.compare.store.queue_schema import ITEMS, QUEUES
from accord.compare.store.schema import PROMPTS, RESPONSES
from accord.errors import DataError
from accord.reasoning import whole_text
from accord.records import Prompt, prompt_from_json

ESCALATED = 0  # the turn of an item that judges handed over


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is stored; `overlap` is the number of votes for each item."""

    id: int
    name: str
    task: Mapping[str, Any]
    overlap: int


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add. `expected` are ranks (0 best) that a check or gold item should be given."""

    digest: str
    batch: str
    criterion: str | None
    response_ids: tuple[int, ...]
    content: Mapping[str, Any] | None = None
    expected: tuple[int, ...] | None = None

    @property
    def is_check(self) -> bool:
        return self.content is not None


@dataclass(frozen=True, slots=True)
class QueueItem:
    """An item as it is stored."""

    id: int
    batch: str
    criterion: str | None
    response_ids: tuple[int, ...]
    content: Mapping[str, Any] | None
    expected: tuple[int, ...] | None
    taken: int

    @property
    def size(self) -> int:
        return len(self.response_ids) if self.content is None else len(self.content["responses"])


@dataclass(frozen=True, slots=True)
class ItemTexts:
    """What an item shows, in the order of its responses; a check's responses have no models."""

    prompt: Prompt
    responses: tuple[str, ...]
    models: tuple[str, ...]


def open_queue(
    connection: sa.Connection, name: str, task: Mapping[str, Any], overlap: int | None
) -> Queue:
    """The queue of this name, created where it is new, with `overlap` from now on; None keeps what
    it has, one vote where it is new.

    Raises DataError where it has another task.
    """
    named = sa.select(QUEUES).where(QUEUES.c.name == name)
    row = connection.execute(named).one_or_none()
    if row is None:
        overlap = overlap or 1
        values = {"name": name, "task": dict(task), "overlap": overlap, "created": now()}
        try:
            with connection.begin_nested():
                connection.execute(QUEUES.insert(), values)
        except exc.IntegrityError:
            pass  # another process was faster
        row = connection.execute(named).one()
    changed = sorted(key for key in {*row.task, *task} if row.task.get(key) != task.get(key))
    if changed:
        before = ", ".join(f"{key}={row.task.get(key)!r}" for key in changed)
        raise DataError(
            f"The queue {name!r} of this store was started with {before}. Start it with the same, "
            "or give the new task another name, such as name=second."
        )
    if overlap is None:
        return Queue(row.id, name, row.task, row.overlap)
    if row.overlap != overlap:
        connection.execute(QUEUES.update().where(QUEUES.c.id == row.id).values(overlap=overlap))
    return Queue(row.id, name, row.task, overlap)


def add_items(connection: sa.Connection, queue: Queue, items: Iterable[NewItem]) -> int:
    """Add the items that the queue does not have yet; how many those are."""
    lock_queue(connection, queue)  # another process may add the same
    added = 0
    pending: dict[str, NewItem] = {}
    for item in items:
        pending[item.digest] = item
        if len(pending) == CHUNK:
            added += _add_new(connection, queue, pending)
            pending = {}
    return added + _add_new(connection, queue, pending)


def escalate_items(connection: sa.Connection, queue: Queue, items: Sequence[NewItem]) -> int:
    """Put items before all others, those that the queue has as well; how many were not there yet.

    An item that is judged already is not asked again.
    """
    add_items(connection, queue, items)
    raised = 0
    digests = [item.digest for item in items]
    for start in range(0, len(digests), CHUNK):
        raised += connection.execute(
            ITEMS.update()
            .where(
                ITEMS.c.queue_id == queue.id,
                ITEMS.c.digest.in_(digests[start : start + CHUNK]),
                ITEMS.c.turn != ESCALATED,
            )
            .values(turn=ESCALATED)
        ).rowcount
    return raised


def lock_queue(connection: sa.Connection, queue: Queue) -> int:
    """Wait until no other transaction has the queue; its overlap. (SQLite has one writer.)"""
    query = sa.select(QUEUES.c.overlap).where(QUEUES.c.id == queue.id).with_for_update()
    return int(connection.execute(query).scalar_one())


def response_digests(
    connection: sa.Connection, models: Sequence[str]
) -> Iterator[tuple[int, dict[int, str]]]:
    """Each prompt's id, with a digest of the text of each response to it, by the response's id; of
    all models, or of these. Only one prompt's are in memory."""
    columns = RESPONSES.c.id, RESPONSES.c.prompt_id, RESPONSES.c.text, RESPONSES.c.opened
    query = sa.select(*columns).order_by(RESPONSES.c.prompt_id, RESPONSES.c.id)
    if models:
        query = query.where(RESPONSES.c.model.in_(list(models)))
    rows = connection.execution_options(yield_per=CHUNK).execute(query)
    for prompt_id, group in groupby(rows, key=lambda row: row.prompt_id):
        yield (
            prompt_id,
            {r.id: _digest(whole_text(r.text, r.opened)) for r in group},
        )


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "replace")).hexdigest()


def count_items(connection: sa.Connection, queue: Queue, *, escalated: bool = False) -> int:
    """The number of items of a queue, without attention checks; with `escalated`, of those that
    judges handed over."""
    query = sa.select(sa.func.count()).where(
        ITEMS.c.queue_id == queue.id, ITEMS.c.is_check.is_(False)
    )
    if escalated:
        query = query.where(ITEMS.c.turn == ESCALATED)
    return connection.scalar(query) or 0


def read_texts(connection: sa.Connection, item: QueueItem) -> ItemTexts:
    """The prompt and responses of an item, with the tag that opened their reasoning."""
    if item.content is not None:
        texts = tuple(item.content["responses"])
        return ItemTexts(prompt_from_json(item.content["prompt"]), texts, ("",) * len(texts))
    query = (
        sa.select(
            RESPONSES.c.id,
            RESPONSES.c.text,
            RESPONSES.c.opened,
            RESPONSES.c.model,
            PROMPTS.c.content,
        )
        .join(PROMPTS, PROMPTS.c.id == RESPONSES.c.prompt_id)
        .where(RESPONSES.c.id.in_(item.response_ids))
    )
    rows = {row.id: row for row in connection.execute(query)}
    ordered = [rows[id_] for id_ in item.response_ids]
    return ItemTexts(
        prompt_from_json(ordered[0].content),
        tuple(whole_text(row.text, row.opened) for row in ordered),
        tuple(row.model for row in ordered),
    )


def select_items(connection: sa.Connection, queue: Queue) -> list[QueueItem]:
    """All items of a queue that are no attention checks, in the order of their ids."""
    query = sa.select(ITEMS).where(ITEMS.c.queue_id == queue.id, ITEMS.c.is_check.is_(False))
    return [read_item(row) for row in connection.execute(query.order_by(ITEMS.c.id))]


def _add_new(connection: sa.Connection, queue: Queue, items: Mapping[str, NewItem]) -> int:
    known = set(
        connection.scalars(
            sa.select(ITEMS.c.digest).where(
                ITEMS.c.queue_id == queue.id, ITEMS.c.digest.in_(list(items))
            )
        )
    )
    rows = [
        {
            "queue_id": queue.id,
            "digest": item.digest,
            "batch": item.batch,
            "criterion": item.criterion,
            "response_ids": list(item.response_ids),
            "content": None if item.content is None else dict(item.content),
            "expected": None if item.expected is None else list(item.expected),
            "is_check": item.is_check,
            "taken": 0,
        }
        for digest, item in items.items()
        if digest not in known
    ]
    if rows:
        connection.execute(ITEMS.insert(), rows)
    return len(rows)


def read_item(row: sa.Row[Any]) -> QueueItem:
    """The item in a row that holds the columns of ITEMS, alone or beside another table's."""
    values, columns = row._mapping, ITEMS.c
    expected = values[columns.expected]
    return QueueItem(
        id=values[columns.id],
        batch=values[columns.batch],
        criterion=values[columns.criterion],
        response_ids=tuple(values[columns.response_ids]),
        content=values[columns.content],
        expected=None if expected is None else tuple(expected),
        taken=values[columns.taken],
    )
