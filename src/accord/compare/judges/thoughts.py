"""What of a judge's message is its answer: not its thoughts, not a quoted text, not a next turn."""

from __future__ import annotations

import json
import re
from typing import Any

from accord.reasoning import split_with

_QUOTED = re.compile(
    r"<((?:prompt|reference|response(?:-[AB])?)-[0-9a-f]{12})>.*?(?:</\1>|\Z)", re.DOTALL
)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|eot|end|endoftext|end_of_text|end_of_turn|return|call|"
    r"user|system|assistant|(?:START|END)_OF_TURN_TOKEN)\|>|</s>|<eos>|<(?:start|end)_of_turn>|"
    r"<｜end▁of▁sentence｜>|<\|END_RESPONSE\|>|\[/?INST\]"
)


class JsonObject:
    """The pairs of a JSON object in their order; a name may occur twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=JsonObject)


def decode_object(text: str, start: int) -> tuple[JsonObject, int] | None:
    """The JSON object that begins at an index of a text, and the index where it ends, or None.

    Line breaks within its strings are taken, because models write them. Raises RecursionError for
    one that is nested a thousand times.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except ValueError:
        return None
    return (value, end) if isinstance(value, JsonObject) else None


def final_answer(content: str) -> str | None:
    """The answer in a judge's message; None where its thoughts never end.

    What stands between tags of thoughts is no answer, nor is what precedes a closing tag without
    an opening one (the chat template may have opened it). A JSON object outside of thoughts is
    whole: a tag in its strings begins nothing. Texts that the judge quotes with their tags are left
    out, and so is what follows the end of its turn.
    """
    answer = split_with(content, _skip_object).answer
    if answer is None:
        return None
    answer = answer.lstrip().removeprefix("<|START_RESPONSE|>")
    answer = _END_OF_TURN.split(answer, maxsplit=1)[0]
    return _QUOTED.sub("", answer)


def _skip_object(text: str, start: int) -> int | None:
    """The end of the JSON object that begins at an index of a text, if one does."""
    decoded = decode_object(text, start) if text[start] == "{" else None
    return None if decoded is None else decoded[1]
