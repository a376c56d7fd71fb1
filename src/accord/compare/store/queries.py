"""What the preference store asks of, and adds to, its tables, within an open transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from accord.compare.store.rows import Said, StoredPrompt, StoredResponse, StoredVerdict, VerdictKind
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

KIND_OF: dict[type[Verdict], VerdictKind] = {
    PairVerdict: "pair",
    RankingVerdict: "ranking",
    RatingVerdict: "rating",
}
CHUNK = 500  # values in one question; databases limit them to some tens of thousands


def digest(prompt: Prompt) -> str:
    """SHA-256 of the prompt as JSON, which tells prompts apart; a text is no user message."""
    content = json.dumps(prompt_json(prompt), ensure_ascii=False, sort_keys=True)
    return sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def add_prompts(
    connection: sa.Connection, items: Sequence[tuple[Prompt, Mapping[str, Any]]]
) -> list[int]:
    """The ids of prompts, adding those that are new with their meta."""
    digests = [digest(prompt) for prompt, _ in items]
    there = _prompt_ids(connection, digests)
    new: dict[str, dict[str, Any]] = {}
    now = _now()
    for key, (prompt, meta) in zip(digests, items, strict=True):
        if key not in there and key not in new:
            new[key] = {
                "digest": key,
                "content": prompt_json(prompt),
                "meta": dict(meta),
                "created": now,
            }
    there |= dict(zip(new, _insert(connection, PROMPTS, list(new.values())), strict=True))
    return [there[key] for key in digests]


def add_responses(connection: sa.Connection, items: Sequence[Response]) -> list[int]:
    """The ids of responses, all of which are new, adding the prompts that are."""
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
    """The ids of verdicts, each with its items.

    Raises DataError where a response is not in the store or is to another prompt than the rest.
    """
    prompt_of = _prompt_of_responses(connection, [i.response_id for each in items for i in each])
    now = _now()
    rows = [
        {
            "prompt_id": _one_prompt(prompt_of, each),
            "kind": KIND_OF[type(verdict)],
            "annotator": verdict.annotator,
            "round": verdict.round,
            "outcome": verdict.outcome if isinstance(verdict, PairVerdict) else None,
            "reason": verdict.reason,
            "seconds": verdict.seconds,
            "created": now,
        }
        for verdict, each in zip(verdicts, items, strict=True)
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
        for id_, each in zip(ids, items, strict=True)
        for slot, item in enumerate(each)
    ]
    if slots:
        connection.execute(VERDICT_ITEMS.insert(), slots)
    return ids


def prompts(connection: sa.Connection) -> list[StoredPrompt]:
    """All prompts in the order of their ids."""
    rows = connection.execute(sa.select(PROMPTS).order_by(PROMPTS.c.id))
    return [StoredPrompt(r.id, prompt_from_json(r.content), r.meta) for r in rows]


def responses(
    connection: sa.Connection, model: str | None, prompt_id: int | None
) -> list[StoredResponse]:
    """Responses in the order of their ids."""
    wanted = sa.select(RESPONSES)
    if model is not None:
        wanted = wanted.where(RESPONSES.c.model == model)
    if prompt_id is not None:
        wanted = wanted.where(RESPONSES.c.prompt_id == prompt_id)
    asked = _contents(connection, wanted.with_only_columns(RESPONSES.c.prompt_id))
    return [
        StoredResponse(
            r.id,
            r.prompt_id,
            Response(
                prompt=asked[r.prompt_id],
                text=r.text,
                model=r.model,
                settings=r.settings,
                logp=r.logp,
                tokens=r.tokens,
                finished=r.finished,
            ),
        )
        for r in connection.execute(wanted.order_by(RESPONSES.c.id))
    ]


def verdicts(
    connection: sa.Connection,
    kind: VerdictKind | None,
    round: int | None,
    annotator: str | None,
) -> list[StoredVerdict]:
    """Verdicts in the order of their ids, with their items."""
    wanted = (
        sa.select(VERDICTS, VERDICT_ITEMS)
        .join(VERDICT_ITEMS, VERDICT_ITEMS.c.verdict_id == VERDICTS.c.id)
        .order_by(VERDICTS.c.id, VERDICT_ITEMS.c.slot)
    )
    for column, value in (("kind", kind), ("round", round), ("annotator", annotator)):
        if value is not None:
            wanted = wanted.where(VERDICTS.c[column] == value)
    found = []
    for _, group in groupby(connection.execute(wanted), key=lambda row: row.id):
        rows = list(group)
        first = rows[0]
        found.append(
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
    return found


def prompts_judged(connection: sa.Connection, kind: VerdictKind) -> dict[int, Prompt]:
    """The prompts that have verdicts of `kind`, by id."""
    return _contents(connection, sa.select(VERDICTS.c.prompt_id).where(VERDICTS.c.kind == kind))


def responses_judged(connection: sa.Connection, kind: VerdictKind) -> dict[int, Said]:
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
    return {r.id: Said(r.text, r.model, r.finished) for r in rows}


def counts(connection: sa.Connection) -> dict[str, int]:
    """How many of everything; see `PreferenceStore.counts`."""
    said = sa.select(VERDICTS.c.kind, VERDICTS.c.outcome, sa.func.count()).group_by(
        VERDICTS.c.kind, VERDICTS.c.outcome
    )
    by_kind = {(kind, outcome): count for kind, outcome, count in connection.execute(said)}
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
    added = table.insert().returning(table.c.id, sort_by_parameter_order=True)
    return list(connection.scalars(added, rows))


def _prompt_ids(connection: sa.Connection, digests: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(digests), CHUNK):
        wanted = sa.select(PROMPTS.c.digest, PROMPTS.c.id).where(
            PROMPTS.c.digest.in_(digests[start : start + CHUNK])
        )
        found.update((row.digest, row.id) for row in connection.execute(wanted))
    return found


def _prompt_of_responses(connection: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    wanted = sorted(set(ids))
    found: dict[int, int] = {}
    for start in range(0, len(wanted), CHUNK):
        chosen = sa.select(RESPONSES.c.id, RESPONSES.c.prompt_id).where(
            RESPONSES.c.id.in_(wanted[start : start + CHUNK])
        )
        found.update((row.id, row.prompt_id) for row in connection.execute(chosen))
    return found


def _one_prompt(prompt_of: Mapping[int, int], items: Sequence[Item]) -> int:
    ids = [item.response_id for item in items]
    unknown = [str(id_) for id_ in ids if id_ not in prompt_of]
    if unknown:
        raise DataError(
            f"A verdict is about response {', '.join(unknown)}, which is not in the store. "
            "Add the responses first and use the ids that they get."
        )
    asked = {prompt_of[id_] for id_ in ids}
    if len(asked) > 1:
        raise DataError(
            f"A verdict compares responses {', '.join(map(str, ids))}, which are to different "
            f"prompts ({', '.join(map(str, sorted(asked)))}). Compare responses to one prompt."
        )
    return asked.pop()


def _contents(connection: sa.Connection, ids: sa.Select[Any]) -> dict[int, Prompt]:
    rows = connection.execute(
        sa.select(PROMPTS.c.id, PROMPTS.c.content).where(PROMPTS.c.id.in_(ids))
    )
    return {r.id: prompt_from_json(r.content) for r in rows}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
