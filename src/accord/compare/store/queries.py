"""The preference store's reads, within an open transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from accord.compare.store.fingerprint import JudgeAnswer, JudgeCheck, JudgeFingerprint
from accord.compare.store.inserts import CHUNK
from accord.compare.store.rows import (
    Facet,
    JudgedResponse,
    Selection,
    StoredPrompt,
    StoredResponse,
    StoredVerdict,
)
from accord.compare.store.schema import (
    JUDGE_ANSWERS,
    JUDGE_CHECKS,
    JUDGES,
    PROMPTS,
    RESPONSES,
    VERDICT_ITEMS,
    VERDICTS,
)
from accord.compare.store.verdicts import Item
from accord.records import Prompt, Response, prompt_from_json

LATER = VERDICTS.alias("later")
FIELDS = (  # of a stored verdict that are its row's
    "id",
    "prompt_id",
    "kind",
    "annotator",
    "round",
    "outcome",
    "reason",
    "seconds",
    "created",
    "criterion",
    "strength",
    "probability",
    "comment",
    "guideline",
    "view",
    "session",
    "source",
    "key",
    "supersedes",
)


def select_prompts(connection: sa.Connection) -> list[StoredPrompt]:
    """All prompts in the order of their ids."""
    rows = connection.execute(sa.select(PROMPTS).order_by(PROMPTS.c.id))
    return [StoredPrompt(r.id, prompt_from_json(r.content), r.meta) for r in rows]


def select_responses(
    connection: sa.Connection, model: str | None, prompt_id: int | None
) -> list[StoredResponse]:
    """Responses in the order of their ids."""
    query = sa.select(RESPONSES)
    if model is not None:
        query = query.where(RESPONSES.c.model == model)
    if prompt_id is not None:
        query = query.where(RESPONSES.c.prompt_id == prompt_id)
    prompts = _select_contents(connection, query.with_only_columns(RESPONSES.c.prompt_id))
    return [
        StoredResponse(
            r.id,
            r.prompt_id,
            Response(
                prompt=prompts[r.prompt_id],
                text=r.text,
                model=r.model,
                settings=r.settings,
                logp=r.logp,
                tokens=r.tokens,
                finished=r.finished,
                opened=r.opened,
            ),
        )
        for r in connection.execute(query.order_by(RESPONSES.c.id))
    ]


def iterate_verdicts(connection: sa.Connection, selection: Selection) -> Iterator[StoredVerdict]:
    """The selected verdicts in the order of their ids, with their items; a chunk in memory."""
    query = _selected(
        sa.select(VERDICTS, JUDGES.c.digest.label("judge")).join(
            JUDGES, JUDGES.c.id == VERDICTS.c.judge_id, isouter=True
        ),
        selection,
    )
    query = query.order_by(VERDICTS.c.id).limit(CHUNK)
    last = 0
    while rows := connection.execute(query.where(VERDICTS.c.id > last)).all():
        last = rows[-1].id
        items = _select_items(connection, [row.id for row in rows])
        for row in rows:
            fields = {name: getattr(row, name) for name in FIELDS}
            yield StoredVerdict(
                **fields, items=items[row.id], tags=tuple(row.tags or ()), judge=row.judge
            )


def select_judged(
    connection: sa.Connection, verdicts: Sequence[StoredVerdict]
) -> tuple[dict[int, Prompt], dict[int, JudgedResponse]]:
    """The prompts and responses of some verdicts, by id."""
    ids = sorted({item.response_id for verdict in verdicts for item in verdict.items})
    responses: dict[int, JudgedResponse] = {}
    for start in range(0, len(ids), CHUNK):
        query = sa.select(RESPONSES).where(RESPONSES.c.id.in_(ids[start : start + CHUNK]))
        rows = connection.execute(query)
        responses |= {r.id: JudgedResponse(r.text, r.model, r.finished, r.opened) for r in rows}
    prompt_ids = {verdict.prompt_id for verdict in verdicts}
    query = sa.select(PROMPTS.c.id, PROMPTS.c.content).where(PROMPTS.c.id.in_(prompt_ids))
    return {r.id: prompt_from_json(r.content) for r in connection.execute(query)}, responses


def select_answers(
    connection: sa.Connection, verdict_ids: Sequence[int]
) -> dict[int, tuple[JudgeAnswer, ...]]:
    """The raw answers that verdicts of judges were read from, by verdict."""
    answers: dict[int, tuple[JudgeAnswer, ...]] = {}
    for start in range(0, len(verdict_ids), CHUNK):
        query = (
            sa.select(JUDGE_ANSWERS)
            .where(JUDGE_ANSWERS.c.verdict_id.in_(verdict_ids[start : start + CHUNK]))
            .order_by(JUDGE_ANSWERS.c.verdict_id, JUDGE_ANSWERS.c.number)
        )
        for r in connection.execute(query):
            answer = JudgeAnswer(r.text, tuple(r.shown), r.verdict, r.probability)
            answers[r.verdict_id] = (*answers.get(r.verdict_id, ()), answer)
    return answers


def select_judges(connection: sa.Connection) -> dict[str, JudgeFingerprint]:
    """The fingerprints of all judges, by digest."""
    rows = connection.execute(sa.select(JUDGES).order_by(JUDGES.c.id))
    return {
        r.digest: JudgeFingerprint(r.model, r.endpoint, r.prompt, r.rubric, r.settings)
        for r in rows
    }


def select_judge_checks(connection: sa.Connection, digest: str | None) -> list[JudgeCheck]:
    """The checks of all judges, or of that with this digest, in the order of their ids."""
    judges = select_judges(connection)
    query = sa.select(JUDGE_CHECKS, JUDGES.c.digest).join(
        JUDGES, JUDGES.c.id == JUDGE_CHECKS.c.judge_id
    )
    if digest is not None:
        query = query.where(JUDGES.c.digest == digest)
    return [
        JudgeCheck(judges[r.digest], r.passed, r.report, r.criterion, r.created)
        for r in connection.execute(query.order_by(JUDGE_CHECKS.c.id))
    ]


def select_facets(connection: sa.Connection) -> list[Facet]:
    """The verdicts that count, by what a selection may name."""
    columns = [VERDICTS.c[name] for name in ("kind", "source", "round", "annotator", "criterion")]
    query = (
        sa.select(*columns, JUDGES.c.digest, sa.func.count())
        .select_from(VERDICTS)
        .join(JUDGES, JUDGES.c.id == VERDICTS.c.judge_id, isouter=True)
        .group_by(*columns, JUDGES.c.digest)
    )
    return [Facet(*row) for row in connection.execute(_selected(query, Selection()))]


def count_all(connection: sa.Connection) -> dict[str, int]:
    """The number of rows of each kind; see `PreferenceStore.counts`."""
    query = sa.select(VERDICTS.c.kind, VERDICTS.c.outcome, sa.func.count()).group_by(
        VERDICTS.c.kind, VERDICTS.c.outcome
    )
    rows = connection.execute(_selected(query, Selection()))
    by_kind = {(kind, outcome): count for kind, outcome, count in rows}
    pairs = {o: by_kind.get(("pair", o), 0) for o in ("a", "b", "tie", "both_bad")}
    verdicts = connection.scalar(sa.select(sa.func.count(VERDICTS.c.id))) or 0

    def of_outcome(outcome: str) -> int:
        return sum(count for (_, o), count in by_kind.items() if o == outcome)

    return {
        "prompts": connection.scalar(sa.select(sa.func.count(PROMPTS.c.id))) or 0,
        "responses": connection.scalar(sa.select(sa.func.count(RESPONSES.c.id))) or 0,
        "verdicts": verdicts,
        "pairs": sum(pairs.values()),
        "comparisons": pairs["a"] + pairs["b"],
        "ties": pairs["tie"],
        "both_bad": pairs["both_bad"],
        "rankings": by_kind.get(("ranking", None), 0),
        "ratings": by_kind.get(("rating", None), 0),
        "undecided": of_outcome("undecided"),
        "skipped": of_outcome("skip"),
        "flagged": of_outcome("flag"),
        "superseded": verdicts - sum(by_kind.values()),
    }


def _selected(query: sa.Select[Any], selection: Selection) -> sa.Select[Any]:
    """The query over VERDICTS, of the selected verdicts alone."""
    columns = VERDICTS.c
    if selection.kind is not None:
        # Not by the column's index, with which SQLite would sort a whole kind for each chunk.
        query = query.where(sa.func.coalesce(columns.kind, "") == selection.kind)
    if selection.rounds is not None:
        query = query.where(columns.round.in_(selection.rounds))
    if selection.annotators is not None:
        query = query.where(columns.annotator.in_(selection.annotators))
    if selection.sources is not None:
        query = query.where(columns.source.in_(selection.sources))
    if selection.items is not None:
        query = query.where(columns.item.in_(selection.items))
    if selection.criteria is not None:
        named = [criterion for criterion in selection.criteria if criterion is not None]
        is_whole = columns.criterion.is_(None) if None in selection.criteria else sa.false()
        query = query.where(columns.criterion.in_(named) | is_whole)
    if selection.history:
        return query
    # Only what was said within the selection replaces a verdict of the selection: a read of round 0
    # sees it as it was.
    newer = sa.and_(
        LATER.c.item == columns.item,
        LATER.c.kind == columns.kind,
        LATER.c.annotator == columns.annotator,
        LATER.c.criterion.is_not_distinct_from(columns.criterion),
        LATER.c.id > columns.id,
    )
    conditions: tuple[sa.ColumnElement[bool], ...] = (newer, LATER.c.supersedes == columns.id)
    for condition in conditions:
        replacement = sa.select(sa.literal(1)).where(condition)
        if selection.rounds is not None:
            replacement = replacement.where(LATER.c.round.in_(selection.rounds))
        if selection.sources is not None:
            replacement = replacement.where(LATER.c.source.in_(selection.sources))
        query = query.where(~replacement.correlate(VERDICTS).exists())
    return query


def _select_items(
    connection: sa.Connection, verdict_ids: Sequence[int]
) -> dict[int, tuple[Item, ...]]:
    """The items of verdicts, in the order of their slots."""
    query = (
        sa.select(VERDICT_ITEMS)
        .where(VERDICT_ITEMS.c.verdict_id.in_(verdict_ids))
        .order_by(VERDICT_ITEMS.c.verdict_id, VERDICT_ITEMS.c.slot)
    )
    groups = groupby(connection.execute(query), key=lambda row: row.verdict_id)
    return {
        id_: tuple(Item(r.response_id, r.rank, r.score, r.shown) for r in rows)
        for id_, rows in groups
    }


def _select_contents(connection: sa.Connection, ids: sa.Select[Any]) -> dict[int, Prompt]:
    """The prompts that the query `ids` selects, by id."""
    rows = connection.execute(
        sa.select(PROMPTS.c.id, PROMPTS.c.content).where(PROMPTS.c.id.in_(ids))
    )
    return {r.id: prompt_from_json(r.content) for r in rows}
