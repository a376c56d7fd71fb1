"""Who has which item of a queue, and until when.

Whatever assigns an item or ends an assignment locks the queue's row first, so that no two people
are given the same vote, with any number of servers and databases. `taken` of an item counts its
assignments that are open or voted; it never exceeds the queue's overlap.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from accord.compare.store.queue import ESCALATED, Queue, QueueItem, lock_queue, read_item
from accord.compare.store.queue_schema import ASSIGNMENTS, ITEMS, QUEUES
from accord.compare.store.schema import VERDICTS

OPEN, VOTED, SKIPPED, FLAGGED, EXPIRED = "open", "voted", "skipped", "flagged", "expired"
ADJUDICATING, ADJUDICATED = "adjudicating", "adjudicated"  # beside the overlap
TAKING = (OPEN, VOTED)
ANSWERED = (VOTED, SKIPPED, FLAGGED)
ASSIGNED = sa.select(ASSIGNMENTS, ITEMS).join_from(
    ASSIGNMENTS, ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id
)
RECENT = 50  # answers that the time left is estimated from


@dataclass(frozen=True, slots=True)
class Assignment:
    """An item that an annotator has or had; `shown[i]` is the position in the item's responses of
    the response shown at i. Times are seconds since 1970."""

    id: int
    item: QueueItem
    annotator: str
    state: str
    shown: tuple[int, ...]
    opened: float
    expires: float
    closed: float | None = None
    verdict_id: int | None = None
    key: str | None = None
    answer: Mapping[str, Any] | None = None
    correct: bool | None = None
    fast: bool | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """How items are assigned: for how many seconds, the seed of the order shown, after how many
    votes an attention check comes (0: never), whether there are several criteria, and whether only
    items that judges handed over are assigned."""

    seconds: float
    seed: int = 0
    check_every: int = 0
    by_criterion: bool = False
    escalated: bool = False


def next_assignment(
    connection: sa.Connection, queue: Queue, annotator: str, lease: Lease, now: float
) -> Assignment | None:
    """The annotator's open assignment, with a new lease; else another item; None without any.

    It is the next criterion of the responses just judged, an attention check where one is due, or
    the item with the fewest votes, of those that judges handed over first.
    """
    overlap = lock_queue(connection, queue)
    release_expired(connection, queue, now)
    current = _select_assignments(
        connection,
        _of(queue, annotator).where(ASSIGNMENTS.c.state == OPEN).order_by(ASSIGNMENTS.c.id),
    )
    if current:
        renew(connection, current[0].id, now + lease.seconds)
        return current[0]
    item = _choose_item(connection, queue, annotator, lease, overlap)
    return None if item is None else _assign(connection, item, annotator, lease, now)


def adjudicate_item(
    connection: sa.Connection, queue: Queue, item_id: int, annotator: str, lease: Lease, now: float
) -> Assignment | None:
    """This item for an adjudicator, beside the overlap; None where the queue has no such item."""
    lock_queue(connection, queue)
    query = sa.select(ITEMS).where(ITEMS.c.id == item_id, ITEMS.c.queue_id == queue.id)
    item = _first_item(connection, query)
    if item is None:
        return None
    earlier = find_assignment(connection, queue, item_id, annotator)
    return earlier or _assign(connection, item, annotator, lease, now, state=ADJUDICATING)


def find_assignment(
    connection: sa.Connection, queue: Queue, item_id: int, annotator: str
) -> Assignment | None:
    """The annotator's assignment of an item of the queue, whatever its state."""
    query = _of(queue, annotator).where(ASSIGNMENTS.c.item_id == item_id)
    return next(iter(_select_assignments(connection, query)), None)


def latest_answered(
    connection: sa.Connection, queue: Queue, annotator: str, before: float | None
) -> Assignment | None:
    """The annotator's latest answered assignment, of those answered before a time."""
    query = _of(queue, annotator).where(ASSIGNMENTS.c.state.in_(ANSWERED))
    if before is not None:
        query = query.where(ASSIGNMENTS.c.closed < before)
    query = query.order_by(ASSIGNMENTS.c.closed.desc(), ASSIGNMENTS.c.id.desc()).limit(1)
    return next(iter(_select_assignments(connection, query)), None)


def close_assignment(
    connection: sa.Connection, assignment: Assignment, state: str, **values: Any
) -> None:
    """End an assignment, and count its item as taken or not."""
    change = int(state in TAKING) - int(assignment.state in TAKING)
    connection.execute(
        ASSIGNMENTS.update().where(ASSIGNMENTS.c.id == assignment.id).values(state=state, **values)
    )
    _count_taken(connection, assignment.item.id, change)


def renew(connection: sa.Connection, assignment_id: int, expires: float) -> bool:
    """Extend an open assignment; whether it was still open."""
    done = connection.execute(
        ASSIGNMENTS.update()
        .where(ASSIGNMENTS.c.id == assignment_id, ASSIGNMENTS.c.state == OPEN)
        .values(expires=expires)
    )
    return done.rowcount == 1


def release_expired(connection: sa.Connection, queue: Queue, now: float) -> int:
    """Give back the items of a locked queue whose time is up; how many those are."""
    its_items = sa.select(ITEMS.c.id).where(ITEMS.c.queue_id == queue.id)
    expired = connection.scalars(
        ASSIGNMENTS.update()
        .where(
            ASSIGNMENTS.c.state == OPEN,
            ASSIGNMENTS.c.expires <= now,
            ASSIGNMENTS.c.item_id.in_(its_items),
        )
        .values(state=EXPIRED)
        .returning(ASSIGNMENTS.c.item_id)
    ).all()
    for item_id in sorted(expired):
        _count_taken(connection, item_id, -1)
    return len(expired)


def select_answered(
    connection: sa.Connection, queue: Queue, states: Sequence[str] = ANSWERED
) -> list[Assignment]:
    """The assignments of a queue in these states, in the order of their ids."""
    query = ASSIGNED.where(ITEMS.c.queue_id == queue.id, ASSIGNMENTS.c.state.in_(states))
    return _select_assignments(connection, query.order_by(ASSIGNMENTS.c.id))


def count_votes(
    connection: sa.Connection, queue: Queue, annotator: str, *, escalated: bool = False
) -> tuple[int, int]:
    """How many items the annotator has answered, and how many more there are for this annotator;
    with `escalated`, more of those that judges handed over. Attention checks are in neither number.
    """
    overlap = sa.select(QUEUES.c.overlap).where(QUEUES.c.id == queue.id).scalar_subquery()
    of_turn = ITEMS.c.turn == ESCALATED if escalated else sa.true()
    is_free = sa.and_(ITEMS.c.taken < overlap, of_turn)
    of_queue = ITEMS.c.queue_id == queue.id, ITEMS.c.is_check.is_(False)
    # The free items are counted in an index; which of them are not for this person, in theirs.
    count = sa.select(sa.func.count()).select_from(ITEMS).where(*of_queue, is_free)
    free = connection.scalar(count) or 0
    states = (
        sa.select(
            ASSIGNMENTS.c.state,
            sa.func.count().label("items"),
            sa.func.sum(sa.case((is_free, 1), else_=0)).label("free"),
        )
        .join_from(ASSIGNMENTS, ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id)
        .where(ASSIGNMENTS.c.annotator == annotator)
        .where(*of_queue)
        .group_by(ASSIGNMENTS.c.state)
    )
    mine = {row.state: row for row in connection.execute(states)}
    done = sum(mine[state].items for state in ANSWERED if state in mine)
    current = mine[OPEN].items if OPEN in mine else 0
    had = sum(row.free for state, row in mine.items() if state != EXPIRED)
    return done, current + free - had


def verdict_with_key(connection: sa.Connection, annotator: str, key: str) -> int | None:
    """The id of the annotator's verdict with the client's key."""
    columns = VERDICTS.c
    query = sa.select(columns.id).where(columns.key == key, columns.annotator == annotator)
    return connection.scalar(query)


def recent_seconds(connection: sa.Connection, queue: Queue, annotator: str) -> list[float]:
    """How long the annotator's latest answers took."""
    query = _of(queue, annotator).where(ASSIGNMENTS.c.state.in_(ANSWERED))
    rows = connection.execute(query.order_by(ASSIGNMENTS.c.closed.desc()).limit(RECENT))
    seconds = [(row.answer or {}).get("seconds") for row in rows]
    return [each for each in seconds if each is not None]


def _choose_item(
    connection: sa.Connection, queue: Queue, annotator: str, lease: Lease, overlap: int
) -> QueueItem | None:
    free = (
        sa.select(ITEMS)
        .where(ITEMS.c.queue_id == queue.id, _not_had_by(annotator))
        .order_by(ITEMS.c.turn, ITEMS.c.taken, ITEMS.c.id)
        .limit(1)
    )
    open_items = free.where(ITEMS.c.is_check.is_(False), ITEMS.c.taken < overlap)
    if lease.escalated:
        open_items = open_items.where(ITEMS.c.turn == ESCALATED)
    last = latest_answered(connection, queue, annotator, None) if lease.by_criterion else None
    if last is not None:
        sibling = _first_item(connection, open_items.where(ITEMS.c.batch == last.item.batch))
        if sibling is not None:
            return sibling
    chosen = _first_item(connection, open_items)
    if (
        chosen is not None
        and lease.check_every
        and _check_is_due(connection, queue, annotator, lease)
    ):
        return _first_item(connection, free.where(ITEMS.c.is_check.is_(True))) or chosen
    return chosen


def _first_item(connection: sa.Connection, query: sa.Select[Any]) -> QueueItem | None:
    row = connection.execute(query).first()
    return None if row is None else read_item(row)


def _check_is_due(connection: sa.Connection, queue: Queue, annotator: str, lease: Lease) -> bool:
    """Once in every `check_every` items, at a position that the annotator can't foresee."""
    query = _of(queue, annotator).with_only_columns(
        sa.func.count(), sa.func.sum(sa.cast(ITEMS.c.is_check, sa.Integer))
    )
    had, checks = connection.execute(query).one()
    draw = random.Random(f"{lease.seed} {annotator} {checks or 0}").randrange(lease.check_every)
    return int(had) >= int(checks or 0) * lease.check_every + draw


def _assign(
    connection: sa.Connection,
    item: QueueItem,
    annotator: str,
    lease: Lease,
    now: float,
    state: str = OPEN,
) -> Assignment:
    # The criteria of the same responses are shown in the same order.
    order = list(range(item.size))
    random.Random(f"{lease.seed} {annotator} {item.batch}").shuffle(order)
    expires = now + lease.seconds
    values = {"state": state, "opened": now, "expires": expires, "shown": order}
    id_ = connection.scalar(  # of one that has expired, where the item is free again
        ASSIGNMENTS.update()
        .where(ASSIGNMENTS.c.item_id == item.id, ASSIGNMENTS.c.annotator == annotator)
        .values(**values)
        .returning(ASSIGNMENTS.c.id)
    )
    if id_ is None:
        new = {"item_id": item.id, "annotator": annotator, **values}
        id_ = connection.scalar(ASSIGNMENTS.insert().values(**new).returning(ASSIGNMENTS.c.id))
    _count_taken(connection, item.id, int(state in TAKING))
    return Assignment(int(id_ or 0), item, annotator, state, tuple(order), now, expires)


def _count_taken(connection: sa.Connection, item_id: int, change: int) -> None:
    if change:
        connection.execute(
            ITEMS.update().where(ITEMS.c.id == item_id).values(taken=ITEMS.c.taken + change)
        )


def _not_had_by(annotator: str) -> sa.ColumnElement[bool]:
    return ~sa.exists().where(
        ASSIGNMENTS.c.item_id == ITEMS.c.id,
        ASSIGNMENTS.c.annotator == annotator,
        ASSIGNMENTS.c.state != EXPIRED,
    )


def _of(queue: Queue, annotator: str) -> sa.Select[Any]:
    return ASSIGNED.where(ITEMS.c.queue_id == queue.id, ASSIGNMENTS.c.annotator == annotator)


def _select_assignments(connection: sa.Connection, query: sa.Select[Any]) -> list[Assignment]:
    return [
        Assignment(
            id=row.id,
            item=read_item(row),
            annotator=row.annotator,
            state=row.state,
            shown=tuple(row.shown),
            opened=row.opened,
            expires=row.expires,
            closed=row.closed,
            verdict_id=row.verdict_id,
            key=row.key,
            answer=row.answer,
            correct=row.correct,
            fast=row.fast,
        )
        for row in connection.execute(query)
    ]
