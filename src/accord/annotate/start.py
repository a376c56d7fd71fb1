"""From the command's settings to a queue at work: its items are added, its guideline is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from accord.annotate.desk import Desk
from accord.annotate.plan import item_groups, make_queue_items, queue_task, read_checks
from accord.compare.store.connection import transaction
from accord.compare.store.people import PersonRole, invite, revoke, select_people
from accord.compare.store.queue import (
    NewItem,
    add_items,
    count_items,
    open_queue,
    response_digests,
)
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError, RequestError
from accord.settings.annotate import AnnotateSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml

BATCH = 500  # items in one transaction
KINDS = {"pairs": "pair", "rankings": "ranking", "labels": "rating"}


def read_settings(overrides: Sequence[str], config: Path | None) -> AnnotateSettings:
    """The settings in a YAML file and on the command line, which wins. Raises SettingsError."""
    values: Any = {} if config is None else load_yaml(config)
    return build(AnnotateSettings, apply_overrides(values, overrides), where="annotate")


def open_desk(
    store: PreferenceStore, settings: AnnotateSettings, *, log: Callable[[str], object]
) -> tuple[Desk, str | None]:
    """The queue at work, with its new items, and the guideline's text.

    Raises DataError where there is nothing to judge, the queue has another task, or a file can't
    be used.
    """
    guideline = _read_guideline(settings)
    if settings.task == "redteam":
        with transaction(store.engine, store.path, writes=True) as connection:
            queue = open_queue(connection, settings.name, {"task": settings.task}, 1)
        return Desk(store, queue, settings, _digest_guideline(guideline, settings)), guideline
    checks = read_checks(settings)
    expected = _gold(store, settings)
    only_escalated = settings.items == "escalated"
    batches = _batches(iter(()) if only_escalated else _items(store, settings, expected))
    first = next(batches)
    if not first and not only_escalated:
        raise DataError(
            f"{store.path} has nothing for people to judge as {settings.task}: "
            f"{_what_is_missing(settings)} Add responses, such as with `accord sample` and `store`."
        )
    with transaction(store.engine, store.path, writes=True) as connection:
        queue = open_queue(connection, settings.name, queue_task(settings), settings.overlap)
        if only_escalated and not count_items(connection, queue, escalated=True):
            raise DataError(
                f"The queue {settings.name!r} of {store.path} has no pairs that judges left to "
                f"people. `accord label {store.path} … --escalate` hands them over."
            )
        add_items(connection, queue, checks)
        added = add_items(connection, queue, first)
    for items in batches:
        with transaction(store.engine, store.path, writes=True) as connection:
            added += add_items(connection, queue, items)
    desk = Desk(store, queue, settings, _digest_guideline(guideline, settings))
    log(
        f"The queue {queue.name!r} has {desk.count_items():,} items ({added:,} of them new), "
        f"{settings.overlap} vote{'s' if settings.overlap > 1 else ''} each."
    )
    return desk, guideline


def invite_person(store: PreferenceStore, name: str, role: PersonRole) -> str:
    """A new token for a person; it is stored nowhere. Raises RequestError for an empty name."""
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable() or name.endswith(")"):
        raise RequestError(
            f"{name!r} can't be a person's name here. Give one of 1 to 80 printable characters "
            "that does not end in a parenthesis."
        )
    with transaction(store.engine, store.path, writes=True) as connection:
        return invite(connection, name, role)


def revoke_person(store: PreferenceStore, name: str) -> None:
    """End a person's token and sessions. Raises DataError for an unknown name."""
    with transaction(store.engine, store.path, writes=True) as connection:
        revoke(connection, name)


def invited(store: PreferenceStore) -> list[str]:
    """The names of those who may enter."""
    with transaction(store.engine, store.path, writes=False) as connection:
        return [person.name for person in select_people(connection) if person.revoked is None]


def _items(
    store: PreferenceStore,
    settings: AnnotateSettings,
    expected: dict[object, tuple[int, ...]],
) -> Iterator[NewItem]:
    with transaction(store.engine, store.path, writes=False) as connection:
        for _, digests in response_digests(connection, settings.models):
            for ids in item_groups(digests, settings):
                yield from make_queue_items(ids, settings, expected)


def _batches(items: Iterator[NewItem]) -> Iterator[list[NewItem]]:
    batch: list[NewItem] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _gold(store: PreferenceStore, settings: AnnotateSettings) -> dict[object, tuple[int, ...]]:
    """The ranks that the gold annotator gave, by criterion and the ids of the responses."""
    if settings.gold is None:
        return {}
    expected: dict[object, tuple[int, ...]] = {}
    for verdict in store.verdicts(KINDS[settings.task], annotator=settings.gold):  # type: ignore[arg-type]
        items = sorted(verdict.items, key=lambda item: item.response_id)
        ids = tuple(item.response_id for item in items)
        ranks = [item.rank for item in items]
        if settings.task == "labels":
            ranks = [None if item.score is None else int(item.score < 0.5) for item in items]
        given = [rank for rank in ranks if rank is not None]
        if len(given) == len(ids):
            expected[verdict.criterion, ids] = tuple(given)
    if not expected:
        raise DataError(
            f"{store.path} has no verdicts of {settings.gold!r} on {settings.task}, which gold "
            "names. Give an annotator who has judged, or leave gold out."
        )
    return expected


def _read_guideline(settings: AnnotateSettings) -> str | None:
    if settings.guidelines is None:
        return None
    try:
        text = Path(settings.guidelines).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"The guidelines {settings.guidelines} can't be read: {error.strerror}."
            " Give a Markdown file."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"The guidelines {settings.guidelines} are not UTF-8 at byte {error.start}. Save the "
            "file as UTF-8."
        ) from None
    if not text.strip():
        raise DataError(f"The guidelines {settings.guidelines} are empty. Write them first.")
    return text


def _digest_guideline(text: str | None, settings: AnnotateSettings) -> str | None:
    """The SHA-256 of the guideline with its test: who passed another test has not passed this."""
    if text is None:
        return None
    if settings.test:
        text += json.dumps([question.model_dump() for question in settings.test], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _what_is_missing(settings: AnnotateSettings) -> str:
    of = f" of {', '.join(settings.models)}" if settings.models else ""
    if settings.task == "labels":
        return f"it has no responses{of}."
    return f"no prompt has two different responses{of}."
