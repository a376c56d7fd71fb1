"""Rows that `accord data export` writes as `verdicts` or `csv`: one for each verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.checks import RowError, parse_number, require_text
from accord.data.files import DataRow
from accord.data.imports.fields import json_list, opened_texts, verdict_fields
from accord.data.imports.judged import UNKNOWN_MODEL, JudgedAnswer, JudgedRow, Opinion, whole_ranks
from accord.records import Prompt, prompt_from_json

KINDS = ("pair", "ranking", "rating")


def parse_verdict_row(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A verdict with its prompt and responses. Raises RowError."""
    values = row.values
    kind = values.get("kind")
    if kind not in KINDS:
        raise RowError(f"`kind` is none of {', '.join(KINDS)}", repr(kind))
    texts = [require_text(t, "responses") for t in json_list(values.get("responses"), "responses")]
    count = len(texts)
    models = _list(values, "models", count) or [UNKNOWN_MODEL] * count
    finished = _list(values, "finished", count) or [True] * count
    opened = opened_texts(_list(values, "opened", count), count)
    answers = tuple(
        JudgedAnswer(text, str(model), end is not False, begun)
        for text, model, end, begun in zip(texts, models, finished, opened, strict=True)
    )
    fields = verdict_fields(values, notes)
    annotator = fields.pop("annotator", None)
    shown = _list(values, "shown", count)
    if shown is not None:
        fields["shown"] = tuple(int(position) for position in shown)
    ranks = _list(values, "ranks", count)
    score = values.get("score")
    opinion = Opinion(
        kind,
        tuple(range(count)),
        values.get("outcome") or None,
        () if ranks is None else tuple(whole_ranks(ranks, "ranks")),
        None if score in (None, "") else parse_number(score, "score"),
        annotator,
        fields,
    )
    return JudgedRow(read_prompt(values.get("prompt")), answers, (opinion,))


def _list(values: Mapping[str, Any], column: str, count: int) -> Sequence[Any] | None:
    value = values.get(column)
    if value is None or value == "":
        return None
    items = json_list(value, column)
    if len(items) != count:
        raise RowError(f"`{column}` and `responses` are not as many")
    return None if all(item is None for item in items) else items


def write_prompt(prompt: Any) -> str:
    """A prompt's JSON value as a cell of text: `read_prompt` reads it back."""
    if isinstance(prompt, str) and _parse_json(prompt) is None:
        return prompt
    return json.dumps(prompt, ensure_ascii=False)


def read_prompt(value: Any) -> Prompt:
    """The inverse of `write_prompt`; a value that is no text is a prompt's JSON value."""
    if isinstance(value, str):
        parsed = _parse_json(value)
        value = value if parsed is None else parsed
    try:
        return prompt_from_json(value)
    except (ValueError, KeyError, TypeError) as error:
        raise RowError("`prompt` is no prompt", str(error)[:80]) from error


def _parse_json(text: str) -> Any:
    """The list, object or text that JSON writes, None where the text is no such JSON."""
    if text[:1] not in ("[", "{", '"'):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict | str) else None
