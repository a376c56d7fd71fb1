"""The preference store's reads and inserts, within an open transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from accord.compare.store.rows import (
    JudgedResponse,
    StoredPrompt,
    StoredResponse,
    StoredVerdict,
    VerdictKind,
)
from accord.compare.store.schema import PROMPTS, RESPONSES, VERDICT_ITEMS, VERDICTS
from accord.compare.store.verdicts import (
    Item,
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
)
from accord.errors import DataError
from accord.records import Prompt, Response, prompt_from_json, prompt_json

VERDICT_KINDS: dict[type[Verdict], VerdictKind] = {
    PairVerdict: "pair",
    RankingVerdict: "ranking",
    RatingVerdict: "rating",
}
CHUNK = 500  # values in one query; databases limit them to some tens of thousands


def prompt_digest(prompt: Prompt) -> str:
    """SHA-256 of the prompt as JSON; a text and a user message of that text differ."""
    content = json.dumps(prompt_json(prompt), ensure_ascii=False, sort_keys=True)
    return sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def add_prompts(
    connection: sa.Connection, items: Sequence[tuple[Prompt, Mapping[str, Any]]]
) -> list[int]:
    """The ids of prompts; new ones are inserted with their meta."""
    digests = [prompt_digest(prompt) for prompt, _ in items]
    ids = _select_by_key(connection, PROMPTS.c.digest, PROMPTS.c.id, digests)
    new: dict[str, dict[str, Any]] = {}
    now = _now()
    for key, (prompt, meta) in zip(digests, items, strict=True):
        if key not in ids and key not in new:
            new[key] = {
                "digest": key,
                "content": prompt_json(prompt),
                "meta": dict(meta),
                "created": now,
            }
    ids |= dict(zip(new, _insert(connection, PROMPTS, list(new.values())), strict=True))
    return [ids[key] for key in digests]


def add_responses(connection: sa.Connection, items: Sequence[Response]) -> list[int]:
    """Inserts responses, and their prompts where those are new; the responses' ids."""
    prompts = list(dict.fromkeys(item.prompt for item in items))
    ids = dict(zip(prompts, add_prompts(connection, [(p, {}) for p in prompts]), strict=True))
    now = _now()
    rows = [
        {
            "prompt_id": ids[item.prompt],
            "text": item.text,
            "model": item.model,
            "settings": dict(item.settings),
            "tokens": item.tokens,
            "logp": item.logp,
            "finished": item.finished,
            "created": now,
        }
        for item in items
    ]
    return _insert(connection, RESPONSES, rows)


def add_verdicts(
    connection: sa.Connection, verdicts: Sequence[Verdict], items: Sequence[Sequence[Item]]
) -> list[int]:
    """Inserts verdicts, each with its items; the verdicts' ids.

    Raises DataError where a response is not in the store or is to another prompt than the rest.
    """
    response_ids = [item.response_id for verdict_items in items for item in verdict_items]
    prompt_ids = _select_by_key(
        connection, RESPONSES.c.id, RESPONSES.c.prompt_id, sorted(set(response_ids))
    )
    now = _now()
    rows = [
        {
            "prompt_id": _shared_prompt(prompt_ids, verdict_items),
            "kind": VERDICT_KINDS[type(verdict)],
            "annotator": verdict.annotator,
            "round": verdict.round,
            "outcome": verdict.outcome if isinstance(verdict, PairVerdict) else None,
            "reason": verdict.reason,
            "seconds": verdict.seconds,
            "created": now,
        }
        for verdict, verdict_items in zip(verdicts, items, strict=True)
    ]
    ids = _insert(connection, VERDICTS, rows)
    slots = [
        {
            "verdict_id": id_,
            "slot": slot,
            "response_id": item.response_id,
            "rank": item.rank,
            "score": item.score,
            "shown": item.shown,
        }
        for id_, verdict_items in zip(ids, items, strict=True)
        for slot, item in enumerate(verdict_items)
    ]
    if slots:
        connection.execute(VERDICT_ITEMS.insert(), slots)
    return ids


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
            ),
        )
        for r in connection.execute(query.order_by(RESPONSES.c.id))
    ]


def select_verdicts(
    connection: sa.Connection,
    kind: VerdictKind | None,
    round: int | None,
    annotator: str | None,
) -> list[StoredVerdict]:
    """Verdicts in the order of their ids, with their items."""
    query = (
        sa.select(VERDICTS, VERDICT_ITEMS)
        .join(VERDICT_ITEMS, VERDICT_ITEMS.c.verdict_id == VERDICTS.c.id)
        .order_by(VERDICTS.c.id, VERDICT_ITEMS.c.slot)
    )
    for column, value in (("kind", kind), ("round", round), ("annotator", annotator)):
        if value is not None:
            query = query.where(VERDICTS.c[column] == value)
    verdicts = []
    for _, group in groupby(connection.execute(query), key=lambda row: row.id):
        rows = list(group)
        first = rows[0]
        verdicts.append(
            StoredVerdict(
                id=first.id,
                prompt_id=first.prompt_id,
                kind=first.kind,
                annotator=first.annotator,
                round=first.round,
                outcome=first.outcome,
                reason=first.reason,
                seconds=first.seconds,
                created=first.created,
                items=tuple(Item(r.response_id, r.rank, r.score, r.shown) for r in rows),
            )
        )
    return verdicts


def select_judged_prompts(connection: sa.Connection, kind: VerdictKind) -> dict[int, Prompt]:
    """The prompts that have verdicts of `kind`, by id."""
    return _select_contents(
        connection, sa.select(VERDICTS.c.prompt_id).where(VERDICTS.c.kind == kind)
    )


def select_judged_responses(
    connection: sa.Connection, kind: VerdictKind
) -> dict[int, JudgedResponse]:
    """The responses that have verdicts of `kind`, by id."""
    judged = (
        sa.select(VERDICT_ITEMS.c.response_id)
        .join(VERDICTS, VERDICT_ITEMS.c.verdict_id == VERDICTS.c.id)
        .where(VERDICTS.c.kind == kind)
    )
    rows = connection.execute(
        sa.select(RESPONSES.c.id, RESPONSES.c.text, RESPONSES.c.model, RESPONSES.c.finished).where(
            RESPONSES.c.id.in_(judged)
        )
    )
    return {r.id: JudgedResponse(r.text, r.model, r.finished) for r in rows}


def count_all(connection: sa.Connection) -> dict[str, int]:
    """The number of rows of each kind; see `PreferenceStore.counts`."""
    query = sa.select(VERDICTS.c.kind, VERDICTS.c.outcome, sa.func.count()).group_by(
        VERDICTS.c.kind, VERDICTS.c.outcome
    )
    by_kind = {(kind, outcome): count for kind, outcome, count in connection.execute(query)}
    pairs = {o: by_kind.get(("pair", o), 0) for o in ("a", "b", "tie", "both_bad")}
    return {
        "prompts": connection.scalar(sa.select(sa.func.count(PROMPTS.c.id))) or 0,
        "responses": connection.scalar(sa.select(sa.func.count(RESPONSES.c.id))) or 0,
        "verdicts": sum(by_kind.values()),
        "pairs": sum(pairs.values()),
        "comparisons": pairs["a"] + pairs["b"],
        "ties": pairs["tie"],
        "both_bad": pairs["both_bad"],
        "rankings": by_kind.get(("ranking", None), 0),
        "ratings": by_kind.get(("rating", None), 0),
    }


def _insert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> list[int]:
    if not rows:
        return []
    statement = table.insert().returning(table.c.id, sort_by_parameter_order=True)
    return list(connection.scalars(statement, rows))


def _select_by_key(
    connection: sa.Connection, key: sa.Column[Any], value: sa.Column[Any], keys: Sequence[Any]
) -> dict[Any, int]:
    """`value` by `key`, of the stored rows whose key is among `keys`."""
    selected: dict[Any, int] = {}
    for start in range(0, len(keys), CHUNK):
        query = sa.select(key, value).where(key.in_(keys[start : start + CHUNK]))
        selected.update((k, v) for k, v in connection.execute(query))
    return selected


def _shared_prompt(prompt_ids: Mapping[int, int], items: Sequence[Item]) -> int:
    """The id of the prompt that a verdict's responses share. Raises DataError without one."""
    ids = [item.response_id for item in items]
    unknown = [str(id_) for id_ in ids if id_ not in prompt_ids]
    if unknown:
        raise DataError(
            f"A verdict is about response {', '.join(unknown)}, which is not in the store. "
            "Add the responses first and use the ids that they get."
        )
    prompts = {prompt_ids[id_] for id_ in ids}
    if len(prompts) > 1:
        raise DataError(
            f"A verdict compares responses {', '.join(map(str, ids))}, which are to different "
            f"prompts ({', '.join(map(str, sorted(prompts)))}). Compare responses to one prompt."
        )
    return prompts.pop()


def _select_contents(connection: sa.Connection, ids: sa.Select[Any]) -> dict[int, Prompt]:
    """The prompts that the query `ids` selects, by id."""
    rows = connection.execute(
        sa.select(PROMPTS.c.id, PROMPTS.c.content).where(PROMPTS.c.id.in_(ids))
    )
    return {r.id: prompt_from_json(r.content) for r in rows}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
