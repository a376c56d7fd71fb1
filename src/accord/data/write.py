"""Writes rows as JSON lines, and reads and writes the stages' responses.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.data.files import DataRow, read_rows, require_values
from accord.data.turns import is_hh_dialogue
from accord.data.values import json_value
from accord.data.written_messages import may_be_messages
from accord.errors import DataError
from accord.records import (
    Demonstration,
    Message,
    Prompt,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Response,
    Text,
    message_json,
    prompt_from_json,
    prompt_json,
)
from accord.runs.atomic import write_text_atomic


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """One line of responses.jsonl: a prompt, and the responses of one model with one setting."""

    prompt: Prompt
    meta: Mapping[str, Any]
    model: str
    settings: Mapping[str, Any]
    responses: tuple[Response, ...]


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write `rows` as JSON lines, all or none (atomically), and return their number.

    Raises DataError at a row that JSON can't hold, StorageError where the disk refuses.
    """
    lines = [_json_line(path, number, row) for number, row in enumerate(rows, start=1)]
    write_text_atomic(path, "".join(lines))
    return len(lines)


def _json_line(path: str | Path, number: int, row: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {number} of {path} can't be written as JSON: {error}.") from error
    return line


def record_json(record: Record) -> dict[str, Any]:
    """A record as a row that `read_records` reads back as the same record (but its source)."""
    if isinstance(record, Text):
        return {"text": record.text}
    prompt = {"prompt": prompt_json(record.prompt)}
    if isinstance(record, PromptOnly):
        return {**prompt, "meta": dict(record.meta)}
    if isinstance(record, Demonstration):
        row: dict[str, Any] = {
            **prompt,
            "completion": _answer_json(record, record.response, record.fields),
        }
        if not record.learn:
            row["completion"] = [{**_answer_turn(record.response, record.fields), "weight": 0}]
        return row if record.finished else {**row, "finished": False}
    if isinstance(record, Rating):
        response = _answer_json(record, record.response, record.fields)
        row = {**prompt, "response": response, "score": record.score}
        return row if record.finished else {**row, "finished": False}
    if isinstance(record, Ranking):
        fields = record.fields or ("",) * len(record.ranks)
        responses = [
            _answer_json(record, *answer) for answer in zip(record.responses, fields, strict=True)
        ]
        row = {**prompt, "responses": responses, "ranks": list(record.ranks)}
        if record.votes:
            row["votes"] = [list(vote) for vote in record.votes]
        return row if record.finished is None else {**row, "finished": list(record.finished)}
    answers = (record.chosen, record.chosen_fields), (record.rejected, record.rejected_fields)
    chosen, rejected = (_answer_json(record, *answer) for answer in answers)
    if isinstance(chosen, str) != isinstance(rejected, str):
        chosen, rejected = (_answer_turns(*answer) for answer in answers)
    row = {**prompt, "chosen": chosen, "rejected": rejected}
    if not (record.chosen_finished and record.rejected_finished):
        row["finished"] = [record.chosen_finished, record.rejected_finished]
    labels = {"margin": record.margin, "probability": record.probability}
    return row | {name: value for name, value in labels.items() if value is not None}


def _answer_json(record: Record, text: str, fields: str = "") -> str | list[dict[str, Any]]:
    """A response as a row has it: its text; or a list of its turn, where it has other fields or its
    text would be read as turns itself."""
    prompt = "" if isinstance(record, Text) else record.prompt
    like_turns = is_hh_dialogue(text) or may_be_messages(text)
    return (
        _answer_turns(text, fields)
        if fields or (like_turns and not isinstance(prompt, str))
        else text
    )


def _answer_turns(text: str, fields: str) -> list[dict[str, Any]]:
    return [_answer_turn(text, fields)]


def _answer_turn(text: str, fields: str) -> dict[str, Any]:
    return message_json(Message("assistant", text, fields))


def write_responses(path: str | Path, rows: Iterable[ResponseRow]) -> int:
    """Write responses.jsonl, one line a prompt, and return the number of lines."""
    return write_jsonl(path, map(response_json, rows))


def response_json(row: ResponseRow) -> dict[str, Any]:
    """A line of responses.jsonl. What the prompt wrote of all its responses stands once, beside
    them; where it differs, in each."""
    opened = {r.opened for r in row.responses}
    of_row = opened.pop() if len(opened) == 1 else ""
    return {
        "prompt": prompt_json(row.prompt),
        "meta": dict(row.meta),
        "model": row.model,
        "settings": dict(row.settings),
        "responses": [
            {"text": r.text, "tokens": r.tokens, "logp": r.logp, "finished": r.finished}
            | ({"opened": r.opened} if r.opened != of_row else {})
            for r in row.responses
        ],
        **({"opened": of_row} if of_row else {}),
    }


def read_responses(path: str | Path) -> list[ResponseRow]:
    """The lines of a responses.jsonl. Raises DataError at a line that is not of its form."""
    return [_parse_response_row(row) for row in read_rows(path)]


def _parse_response_row(row: DataRow) -> ResponseRow:
    values = require_values(row)
    missing = [c for c in ("prompt", "model", "responses") if values.get(c) is None]
    if missing:
        raise DataError(
            f"{row.source} has no {' and no '.join(f'`{c}`' for c in missing)}. Give a "
            "responses.jsonl as `accord sample` writes it: prompt, meta, model, settings and "
            "responses, each with its text."
        )
    try:
        prompt = prompt_from_json(values["prompt"])
        settings = _require_table(values.get("settings"), "settings")
        meta = json_value(_require_table(values.get("meta"), "meta"))
        model = str(values["model"])
        opened = str(values.get("opened") or "")
        responses = tuple(
            Response(
                prompt=prompt,
                text=_require_text(answer),
                model=model,
                settings=settings,
                logp=_require_number(answer.get("logp"), "logp"),
                tokens=_require_number(answer.get("tokens"), "tokens"),
                finished=bool(answer.get("finished", True)),
                opened=str(answer.get("opened", opened) or ""),
            )
            for answer in values["responses"]
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{row.source} is not a line of responses.jsonl: {error}. "
            "Sample the responses again, or correct that line."
        ) from error
    return ResponseRow(prompt, meta, model, settings, responses)


def _require_table(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be an object, got {str(value)[:60]!r}")
    return dict(value or {})


def _require_number(value: Any, name: str) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"`{name}` must be a number, got {str(value)[:60]!r}")
    return value


def _require_text(answer: Any) -> str:
    if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
        raise ValueError(f"a response must be an object with `text`, got {str(answer)[:60]!r}")
    text: str = answer["text"]
    return text
