"""The items of a queue, made from the responses in a store and from attention checks.

Pairs are all pairs of a prompt's different responses; rankings are of up to `size` of them; labels
are of one. With criteria, each is an item per criterion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import combinations

from accord.compare.dataset import load_records
from accord.compare.store.queue import NewItem
from accord.errors import DataError
from accord.records import Comparison, prompt_json
from accord.settings.annotate import AnnotateSettings

Texts = Mapping[int, str]
"""The digest of each response to one prompt, by its id."""


def queue_task(settings: AnnotateSettings) -> dict[str, object]:
    """What decides the items of a queue."""
    task: dict[str, object] = {"task": settings.task, "criteria": list(settings.criteria)}
    return {**task, "size": settings.size} if settings.task == "rankings" else task


def item_groups(texts: Texts, settings: AnnotateSettings) -> Iterator[tuple[int, ...]]:
    """The ids of the responses that are judged together, of one prompt's responses. Of responses
    with the same text only the first is judged."""
    first: dict[str, int] = {}
    for id_, text in texts.items():
        first.setdefault(text, id_)
    different = list(first.values())
    if settings.task == "labels":
        yield from ((id_,) for id_ in different)
    elif settings.task == "pairs":
        yield from combinations(different, 2)
    else:
        # As equal in size as can be: 5 responses by 4 are 3 and 2, not 4 and 1.
        parts = -(-len(different) // settings.size)
        for part in range(parts if len(different) > 1 else 0):
            ids = tuple(different[part::parts])
            if len(ids) > 1:
                yield ids


def make_queue_items(
    ids: tuple[int, ...], settings: AnnotateSettings, expected: Mapping[object, tuple[int, ...]]
) -> Iterator[NewItem]:
    """The items on these responses, one for each criterion. `expected` holds the ranks that a gold
    annotator gave, by criterion and ids."""
    batch = _digest(["responses", *ids])
    for criterion in settings.criteria or [None]:
        yield NewItem(
            digest=_digest([settings.task, criterion, *ids]),
            batch=batch,
            criterion=criterion,
            response_ids=ids,
            expected=expected.get((criterion, ids)),
        )


def read_checks(settings: AnnotateSettings) -> list[NewItem]:
    """The attention checks. Raises DataError where the data set has no comparisons."""
    if settings.checks is None:
        return []
    records, report = load_records(settings.checks, "comparisons")
    if report.dropped:
        reasons = ", ".join(report.dropped)
        raise DataError(
            f"{settings.checks} has rows that can't be attention checks: {reasons}. Correct or "
            "remove them; `accord data check` lists them."
        )
    checks = [record for record in records if isinstance(record, Comparison)]
    return [_check(check, criterion) for check in checks for criterion in _first(settings)]


def _first(settings: AnnotateSettings) -> Sequence[str | None]:
    """A check is asked once, whatever the number of criteria: by the first of them."""
    return list(settings.criteria)[:1] or [None]


def _check(check: Comparison, criterion: str | None) -> NewItem:
    content = {
        "prompt": prompt_json(check.prompt),
        "responses": [check.chosen, check.rejected],
    }
    digest = _digest(["check", content])
    return NewItem(digest, digest, criterion, (), content, expected=(0, 1))


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
