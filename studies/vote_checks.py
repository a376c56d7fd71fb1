"""Whether a store holds what annotators were told: each vote once, no item for too many people."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import sqlalchemy as sa
from voting import Log

from accord.compare.store.queue_schema import ASSIGNMENTS, ITEMS
from accord.compare.store.store import PreferenceStore


def wrong_votes(store: PreferenceStore, log: Log) -> list[str]:
    """Votes that are acknowledged and not stored exactly once by the same person, and others."""
    faults = []
    verdicts = store.verdicts(history=True)
    times = Counter(verdict.key for verdict in verdicts)
    by_key = {verdict.key: verdict for verdict in verdicts}
    for key, id_ in log.acknowledged.items():
        if times[key] != 1 or by_key[key].id != id_:
            faults.append(f"key {key}, acknowledged as {id_}, is in the store {times[key]} times")
        elif by_key[key].annotator != log.item_of[key][1]:
            faults.append(f"key {key} is by {by_key[key].annotator}, not {log.item_of[key][1]}")
    others = set(times) - set(log.acknowledged)
    return faults + [f"key {key} was not acknowledged" for key in sorted(map(str, others))]


def wrong_counts(store: PreferenceStore, overlap: int) -> list[str]:
    """Items whose counter is not that of their assignments, or that have too many of them."""
    faults = []
    states: dict[int, list[str]] = defaultdict(list)
    with store.engine.connect() as connection:
        for row in connection.execute(sa.select(ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.state)):
            states[row.item_id].append(row.state)
        for row in connection.execute(sa.select(ITEMS.c.id, ITEMS.c.taken)):
            taking = sum(state in ("open", "voted") for state in states[row.id])
            if row.taken != taking:
                faults.append(f"item {row.id} counts {row.taken} assignments and has {taking}")
            if taking > overlap:
                faults.append(f"item {row.id} has {taking} people for {overlap} votes")
    return faults


def count_full(store: PreferenceStore, overlap: int) -> tuple[int, int]:
    """The number of items that have exactly `overlap` votes, and that of all items."""
    votes = (
        sa.select(ASSIGNMENTS.c.item_id)
        .where(ASSIGNMENTS.c.state == "voted")
        .group_by(ASSIGNMENTS.c.item_id)
        .having(sa.func.count() == overlap)
    )
    with store.engine.connect() as connection:
        counts = [
            connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
            for query in (votes, sa.select(ITEMS.c.id))
        ]
    return counts[0], counts[1]


def broken_leases(log: Log, lease: float, overlap: int) -> list[str]:
    """Items that someone got, or whose late answer was stored, while as many others had them as
    votes are needed.

    A person has an item for the lease from when it was given, and for good from when the vote was
    stored. The times are those at which the server's answers arrived, so a lease is taken to be
    shorter by the worst latency. (A server that answers later than a lease ends passes here; the
    counts in the store are compared all the same.)
    """
    slack = max((max(times) for times in log.seconds.values()), default=0.0)
    received: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for each in log.given:
        received[each.item].append((each.name, each.received))
    taken: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for item, times in received.items():
        taken[item] += times
    for (item, name), at in log.voted.items():
        taken[item].append((name, at))
    faults = []
    for item, times in taken.items():
        for name, at in times:
            having = {
                other
                for other, earlier in received[item]
                if other != name
                and earlier < at
                and (at < earlier + lease - slack or log.voted.get((item, other), math.inf) <= at)
            }
            if len(having) >= overlap:
                faults.append(f"item {item} was {name}'s while {len(having)} others had it")
    return faults
