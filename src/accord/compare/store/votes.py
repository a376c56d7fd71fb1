"""Inserts of verdicts: none twice, and each names the verdict that it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from accord.compare.store.inserts import (
    CHUNK,
    add_judges,
    insert,
    now,
    select_by_key,
    shared_prompt,
)
from accord.compare.store.items import item_name
from accord.compare.store.rows import VerdictKind
from accord.compare.store.schema import JUDGE_ANSWERS, RESPONSES, VERDICT_ITEMS, VERDICTS
from accord.compare.store.verdicts import (
    Item,
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
)
from accord.errors import DataError

VERDICT_KINDS: dict[type[Verdict], VerdictKind] = {
    PairVerdict: "pair",
    RankingVerdict: "ranking",
    RatingVerdict: "rating",
}

Question = tuple[str, str, str, str | None]
"""What an annotator has one opinion on: item, kind, annotator, criterion."""


def add_verdicts(
    connection: sa.Connection, verdicts: Sequence[Verdict], items: Sequence[Sequence[Item]]
) -> list[int]:
    """Inserts verdicts, each with its items; the verdicts' ids.

    A verdict whose key is stored, or occurs before, is not inserted: its id is the first one's.
    Raises DataError where that one says something else, where a response is not in the store or is
    to another prompt than the rest, and where a verdict replaces none of the same annotator's.
    """
    questions = [_question(v, of_v) for v, of_v in zip(verdicts, items, strict=True)]
    ids = _stored_ids(connection, verdicts, questions)
    new = [number for number, id_ in enumerate(ids) if id_ is None]
    first_with_key: dict[str, int] = {}
    fresh = []
    for number in new:
        key = verdicts[number].key
        first = first_with_key.setdefault(key, number) if key is not None else number
        if first == number:
            fresh.append(number)
        else:
            _check_same(verdicts[number], questions[number], _content(verdicts, questions, first))
    for number, id_ in _insert_new(connection, verdicts, items, questions, fresh).items():
        ids[number] = id_
    return [
        ids[first_with_key[verdict.key or ""]] if id_ is None else id_  # type: ignore[misc]
        for verdict, id_ in zip(verdicts, ids, strict=True)
    ]


def _question(verdict: Verdict, items: Sequence[Item]) -> Question:
    name = item_name(item.response_id for item in items)
    return name, VERDICT_KINDS[type(verdict)], verdict.annotator, verdict.criterion


def _content(
    verdicts: Sequence[Verdict], questions: Sequence[Question], number: int
) -> tuple[Question, str | None]:
    return questions[number], verdicts[number].outcome


def _stored_ids(
    connection: sa.Connection, verdicts: Sequence[Verdict], questions: Sequence[Question]
) -> list[int | None]:
    """The id of each verdict whose key is stored, None for the others."""
    keys = list(dict.fromkeys(v.key for v in verdicts if v.key is not None))
    columns = VERDICTS.c
    stored: dict[str, Any] = {}
    for start in range(0, len(keys), CHUNK):
        query = sa.select(
            columns.key,
            columns.id,
            columns.item,
            columns.kind,
            columns.annotator,
            columns.criterion,
            columns.outcome,
        ).where(columns.key.in_(keys[start : start + CHUNK]))
        stored.update((row.key, row) for row in connection.execute(query))
    ids: list[int | None] = []
    for verdict, question in zip(verdicts, questions, strict=True):
        row = stored.get(verdict.key) if verdict.key is not None else None
        if row is not None:
            stored_question = (row.item, row.kind, row.annotator, row.criterion)
            _check_same(verdict, question, (stored_question, row.outcome))
        ids.append(None if row is None else row.id)
    return ids


def _check_same(verdict: Verdict, question: Question, other: tuple[Question, str | None]) -> None:
    """Raise DataError where two verdicts with the same key are not one verdict sent twice."""
    if (question, verdict.outcome) != other:
        raise DataError(
            f"The key {verdict.key!r} belongs to another verdict, by {other[0][2]} on responses "
            f"{other[0][0]}: a key is for one verdict. Give each verdict a new key, such as a UUID."
        )


def _insert_new(
    connection: sa.Connection,
    verdicts: Sequence[Verdict],
    items: Sequence[Sequence[Item]],
    questions: Sequence[Question],
    numbers: Sequence[int],
) -> dict[int, int]:
    """Inserts the verdicts with these numbers; their ids by number."""
    used = sorted({item.response_id for number in numbers for item in items[number]})
    prompts = select_by_key(connection, RESPONSES.c.id, RESPONSES.c.prompt_id, used)
    prompt_ids = {n: shared_prompt(prompts, [i.response_id for i in items[n]]) for n in numbers}
    judges = add_judges(connection, [j for n in numbers if (j := verdicts[n].judge) is not None])
    _check_superseded(connection, [verdicts[number] for number in numbers])
    latest = _latest(connection, [questions[number] for number in numbers])
    ids: dict[int, int] = {}
    created = now()
    waiting = list(numbers)
    while waiting:  # a second verdict on the same question waits for the id of the first
        seen: set[Question] = set()
        batch: list[int] = []
        later: list[int] = []
        for number in waiting:
            (later if questions[number] in seen else batch).append(number)
            seen.add(questions[number])
        rows = []
        for number in batch:
            verdict, question = verdicts[number], questions[number]
            row = _row(verdict, question, prompt_ids[number], judges, latest.get(question))
            rows.append({**row, "created": created})
        for number, id_ in zip(batch, insert(connection, VERDICTS, rows), strict=True):
            ids[number] = latest[questions[number]] = id_
        waiting = later
    _insert_items(connection, [(ids[number], items[number]) for number in numbers])
    _insert_answers(connection, [(ids[number], verdicts[number]) for number in numbers])
    return ids


def _row(
    verdict: Verdict,
    question: Question,
    prompt_id: int,
    judges: Mapping[str, int],
    latest: int | None,
) -> dict[str, Any]:
    item, kind, annotator, criterion = question
    pair = verdict if isinstance(verdict, PairVerdict) else None
    return {
        "prompt_id": prompt_id,
        "kind": kind,
        "annotator": annotator,
        "round": verdict.round,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "seconds": verdict.seconds,
        "item": item,
        "criterion": criterion,
        "strength": None if isinstance(verdict, RankingVerdict) else verdict.strength,
        "probability": pair.probability if pair else None,
        "comment": verdict.comment,
        "tags": list(verdict.tags) or None,
        "guideline": verdict.guideline,
        "view": verdict.view,
        "session": verdict.session,
        "source": verdict.source,
        "key": verdict.key,
        "supersedes": latest if verdict.supersedes is None else verdict.supersedes,
        "judge_id": None if verdict.judge is None else judges[verdict.judge.digest],
    }


def _insert_items(connection: sa.Connection, rows: Sequence[tuple[int, Sequence[Item]]]) -> None:
    slots = [
        {
            "verdict_id": id_,
            "slot": slot,
            "response_id": item.response_id,
            "rank": item.rank,
            "score": item.score,
            "shown": item.shown,
        }
        for id_, items in rows
        for slot, item in enumerate(items)
    ]
    if slots:
        connection.execute(VERDICT_ITEMS.insert(), slots)


def _insert_answers(connection: sa.Connection, rows: Sequence[tuple[int, Verdict]]) -> None:
    answers = [
        {
            "verdict_id": id_,
            "number": number,
            "shown": list(answer.shown),
            "verdict": answer.verdict,
            "probability": answer.probability,
            "text": answer.text,
        }
        for id_, verdict in rows
        for number, answer in enumerate(verdict.answers)
    ]
    if answers:
        connection.execute(JUDGE_ANSWERS.insert(), answers)


def _latest(connection: sa.Connection, questions: Sequence[Question]) -> dict[Question, int]:
    """The id of the latest verdict on each question that has one."""
    names = list(dict.fromkeys(question[0] for question in questions))
    columns = (VERDICTS.c.item, VERDICTS.c.kind, VERDICTS.c.annotator, VERDICTS.c.criterion)
    asked = set(questions)
    latest: dict[Question, int] = {}
    for start in range(0, len(names), CHUNK):
        query = (
            sa.select(*columns, sa.func.max(VERDICTS.c.id))
            .where(VERDICTS.c.item.in_(names[start : start + CHUNK]))
            .group_by(*columns)
        )
        for item, kind, annotator, criterion, id_ in connection.execute(query):
            if (question := (item, kind, annotator, criterion)) in asked:
                latest[question] = id_
    return latest


def _check_superseded(connection: sa.Connection, verdicts: Sequence[Verdict]) -> None:
    """Raise DataError where a verdict replaces one that is missing or another annotator's."""
    named = {v.supersedes for v in verdicts if v.supersedes is not None}
    owners = select_by_key(connection, VERDICTS.c.id, VERDICTS.c.annotator, sorted(named))
    for verdict in verdicts:
        if verdict.supersedes is None:
            continue
        if verdict.supersedes not in owners:
            raise DataError(
                f"A verdict of {verdict.annotator} replaces verdict {verdict.supersedes}, which "
                "is not in the store. Give the id of a stored verdict, or leave it out."
            )
        if owners[verdict.supersedes] != verdict.annotator:
            raise DataError(
                f"A verdict of {verdict.annotator} replaces verdict {verdict.supersedes} of "
                f"{owners[verdict.supersedes]}. An annotator can replace only verdicts of the "
                "same name: add it as a further verdict, without `supersedes`."
            )
