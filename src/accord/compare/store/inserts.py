"""The preference store's inserts, within an open transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from accord.compare.store.fingerprint import JudgeCheck, JudgeFingerprint
from accord.compare.store.schema import JUDGE_CHECKS, JUDGES, PROMPTS, RESPONSES
from accord.errors import DataError
from accord.records import Prompt, Response, prompt_json

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
    ids = select_by_key(connection, PROMPTS.c.digest, PROMPTS.c.id, digests)
    new: dict[str, dict[str, Any]] = {}
    created = now()
    for key, (prompt, meta) in zip(digests, items, strict=True):
        if key not in ids and key not in new:
            new[key] = {
                "digest": key,
                "content": prompt_json(prompt),
                "meta": dict(meta),
                "created": created,
            }
    ids |= dict(zip(new, insert(connection, PROMPTS, list(new.values())), strict=True))
    return [ids[key] for key in digests]


def add_responses(
    connection: sa.Connection, items: Sequence[Response], keys: Sequence[str | None] | None = None
) -> list[int]:
    """Inserts responses, and their prompts where those are new; the responses' ids.

    A response whose key is stored, or occurs before, is not inserted again. Raises DataError where
    the stored one has another text or prompt.
    """
    prompts = list(dict.fromkeys(item.prompt for item in items))
    ids = dict(zip(prompts, add_prompts(connection, [(p, {}) for p in prompts]), strict=True))
    if keys is None:
        keys = [None] * len(items)
    named = [key for key in dict.fromkeys(keys) if key is not None]
    stored = select_by_key(connection, RESPONSES.c.key, RESPONSES.c.id, named)
    created = now()
    numbers: list[int | None] = []  # of its row among the new ones; None: stored
    rows: list[dict[str, Any]] = []
    number_of: dict[str, int] = {}
    for item, key in zip(items, keys, strict=True):
        if key is not None and (key in stored or key in number_of):
            numbers.append(number_of.get(key))
            continue
        if key is not None:
            number_of[key] = len(rows)
        numbers.append(len(rows))
        rows.append(
            {
                "prompt_id": ids[item.prompt],
                "text": item.text,
                "model": item.model,
                "settings": dict(item.settings),
                "tokens": item.tokens,
                "logp": item.logp,
                "finished": item.finished,
                "created": created,
                "key": key,
                "opened": item.opened,
            }
        )
    new = insert(connection, RESPONSES, rows)
    return [
        stored[key or ""] if number is None else new[number]
        for number, key in zip(numbers, keys, strict=True)
    ]


def add_judges(
    connection: sa.Connection, fingerprints: Sequence[JudgeFingerprint]
) -> dict[str, int]:
    """The ids of judges by the digests of their fingerprints; new ones are inserted."""
    by_digest = {judge.digest: judge for judge in fingerprints}
    ids = select_by_key(connection, JUDGES.c.digest, JUDGES.c.id, list(by_digest))
    created = now()
    rows = [
        {
            "digest": digest,
            "model": judge.model,
            "endpoint": judge.endpoint,
            "prompt": judge.prompt,
            "rubric": judge.rubric,
            "settings": dict(judge.settings),
            "created": created,
        }
        for digest, judge in by_digest.items()
        if digest not in ids
    ]
    new = insert(connection, JUDGES, rows)
    return ids | {row["digest"]: id_ for row, id_ in zip(rows, new, strict=True)}


def add_judge_check(connection: sa.Connection, check: JudgeCheck) -> int:
    """Inserts the result of a judge's check; its id."""
    judges = add_judges(connection, [check.fingerprint])
    row = {
        "judge_id": judges[check.fingerprint.digest],
        "criterion": check.criterion,
        "passed": check.passed,
        "report": dict(check.report),
        "created": now(),
    }
    return insert(connection, JUDGE_CHECKS, [row])[0]


def insert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Inserts rows into a table with an `id`; their ids, in order."""
    if not rows:
        return []
    statement = table.insert().returning(table.c.id, sort_by_parameter_order=True)
    return list(connection.scalars(statement, rows))


def select_by_key(
    connection: sa.Connection, key: sa.Column[Any], value: sa.Column[Any], keys: Sequence[Any]
) -> dict[Any, int]:
    """`value` by `key`, of the stored rows whose key is among `keys`."""
    selected: dict[Any, int] = {}
    for start in range(0, len(keys), CHUNK):
        query = sa.select(key, value).where(key.in_(keys[start : start + CHUNK]))
        selected.update((k, v) for k, v in connection.execute(query))
    return selected


def shared_prompt(prompt_ids: Mapping[int, int], ids: Sequence[int]) -> int:
    """The id of the prompt that a verdict's responses share. Raises DataError without one."""
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


def now() -> str:
    """The time in UTC, as the store's rows hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
