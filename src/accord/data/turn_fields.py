"""What a turn holds beside its role and its text: tool calls, thoughts, whether it is learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.checks import RowError, require_text, truncate

# Fields that chat templates read, by the names that OpenAI's format and templates give them.
TEMPLATE_FIELDS = (
    "tool_calls",
    "tool_call_id",
    "name",
    "reasoning_content",
    "reasoning",
    "thinking",
    "tool_plan",
)
# Columns of a row that templates receive beside the turns.
CONTEXT_COLUMNS = ("tools", "documents")
# Marks of turns that are to be learned, in OpenAI's, Mistral's, axolotl's and ms-swift's formats.
LEARN_MARKS = ("weight", "train", "training", "trainable", "learn", "loss", "loss_weight")
SEGMENT_MARKS = ("train_detail", "training_detail", "message_train_detail")  # axolotl's
TEXT_KEYS = ("role", "from", "content", "value")
SWITCHES: dict[Any, bool] = {True: True, False: False, "true": True, "false": False}
SWITCHES |= {"1": True, "0": False, "1.0": True, "0.0": False}


def template_fields(turn: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A turn's fields for the chat template; empty ones are left out.

    `tool_calls` that are JSON text are parsed, and OpenAI's former `function_call` becomes one.
    Raises RowError where they are no calls.
    """
    fields = {key: turn[key] for key in TEMPLATE_FIELDS if turn.get(key) not in (None, "", [], {})}
    if isinstance(turn.get("function_call"), Mapping):
        fields.setdefault("tool_calls", [make_call(turn["function_call"])])
    if "tool_calls" in fields:
        fields["tool_calls"] = _parse_calls(fields["tool_calls"], column)
    for key, value in fields.items():
        if key != "tool_calls":
            require_text(value, f"{key}` of a turn in `{column}")
    return fields


def _parse_calls(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):
        value = parse_json(value, f"tool_calls` of a turn in `{column}")
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list | tuple) or not all(isinstance(c, Mapping) for c in calls):
        raise RowError(f"`tool_calls` of a turn in `{column}` holds no calls", truncate(value))
    return [without_missing(call) for call in calls]


def make_call(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function's name and arguments as a call in OpenAI's format."""
    return {"type": "function", "function": without_missing(function)}


def parse_function_call(value: Any, column: str) -> dict[str, Any]:
    """The calls in a turn of ShareGPT's role `function_call`: JSON of one call or of several."""
    if isinstance(value, str):
        value = parse_json(value, column)
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise RowError(f"`{column}` holds a function_call that is no call", truncate(value))
    return {"content": None, "tool_calls": [make_call(call) for call in calls]}


def context_column(value: Any, column: str) -> list[Any] | None:
    """The tools or documents in a row's column, which may be JSON text; None where it has none."""
    if isinstance(value, str):
        value = parse_json(value, column) if value.strip() else None
    if value in (None, [], {}):
        return None
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        raise RowError(f"`{column}` is no list", truncate(value))
    parsed = [parse_json(item, column) if isinstance(item, str) else item for item in items]
    if not all(isinstance(item, Mapping) for item in parsed):
        raise RowError(f"`{column}` holds something else than objects", truncate(value))
    return [without_missing(item) for item in parsed]


def without_missing(value: Any) -> Any:
    """An object without the keys whose value is None, as Arrow fills what other rows have."""
    if isinstance(value, Mapping):
        return {str(k): without_missing(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_missing(item) for item in value]
    return value


def parse_json(text: str, column: str) -> Any:
    """JSON in a cell's text. Raises RowError where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(f"`{column}` is no JSON", truncate(text)) from None


def is_learned(turn: Mapping[str, Any]) -> bool:
    """Whether a turn's marks let it be learned, as all turns are that have none.

    Raises RowError for a mark that is neither yes nor no, and for one on a part of the turn.
    """
    marks = []
    for key in LEARN_MARKS:
        mark = turn.get(key)
        if mark is not None and mark != "":
            mark = mark.strip().lower() if isinstance(mark, str) else mark
            if isinstance(mark, Mapping | list) or mark not in SWITCHES:
                raise RowError(f"`{key}` of a turn is neither 0 nor 1", truncate(mark))
            marks.append(SWITCHES[mark])
    for key in SEGMENT_MARKS:
        if turn.get(key):
            marks.append(_parse_segments(turn[key], key))
    return all(marks)


def _parse_segments(segments: Any, key: str) -> bool:
    """The mark that all segments of a turn have."""
    if not isinstance(segments, Sequence) or not all(isinstance(s, Mapping) for s in segments):
        raise RowError(f"`{key}` of a turn is no list of segments", truncate(segments))
    marks = {bool(segment.get("train")) for segment in segments}
    if len(marks) > 1:
        raise RowError(f"`{key}` marks a part of a turn: only whole turns can be left out")
    return marks.pop()


def unread_keys(turn: Mapping[str, Any]) -> list[str]:
    """A turn's keys with a value that nothing reads."""
    read = {*TEXT_KEYS, *TEMPLATE_FIELDS, *LEARN_MARKS, *SEGMENT_MARKS, "function_call"}
    return [str(key) for key, value in turn.items() if key not in read and value is not None]
