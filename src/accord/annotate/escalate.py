"""Pairs that judges leave to people: first in the queue of the annotation page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accord.annotate.plan import make_queue_items, queue_task
from accord.compare.store.connection import transaction
from accord.compare.store.queue import NewItem, Queue, escalate_items, open_queue
from accord.compare.store.store import PreferenceStore
from accord.settings.annotate import AnnotateSettings


@dataclass(frozen=True, slots=True)
class Escalation:
    """A queue that takes pairs from judges."""

    store: PreferenceStore
    queue: Queue
    settings: AnnotateSettings

    def add(self, pairs: Sequence[tuple[tuple[int, int], str | None]]) -> int:
        """Put pairs, by the ids of their responses and the criterion, first in the queue: those
        that it has as well. How many were not first before."""
        items: list[NewItem] = []
        for ids, criterion in pairs:
            of_pair = make_queue_items(ids, self.settings, {})
            items += [item for item in of_pair if item.criterion == criterion]
        with transaction(self.store.engine, self.store.path, writes=True) as connection:
            return escalate_items(connection, self.queue, items)


def open_escalation(
    store: PreferenceStore, name: str, criteria: Mapping[str | None, str | None]
) -> Escalation:
    """The queue of this name, which keeps the number of votes for each item; a new one has one.

    Raises DataError where the queue has another task, such as other criteria.
    """
    questions = {c: question or c for c, question in criteria.items() if c is not None}
    settings = AnnotateSettings(name=name, criteria=questions)
    with transaction(store.engine, store.path, writes=True) as connection:
        queue = open_queue(connection, name, queue_task(settings), None)
    return Escalation(store, queue, settings)
