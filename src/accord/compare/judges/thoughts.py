"""What of a judge's message is its answer: not its thoughts, not a quoted text, not a next turn.

A server without a reasoning parser leaves a model's thoughts in the content. The tags are those of
public model cards and chat templates: DeepSeek-R1, QwQ and Qwen3 `<think>`, Magistral `[THINK]`,
gpt-oss `<|channel|>analysis` (OpenAI harmony), Kimi `◁think▷`, Cohere `<|START_THINKING|>`,
Seed-OSS `<seed:think>`, Sky-T1 `<|begin_of_thought|>`, MedGemma `<unused94>thought`.
"""

from __future__ import annotations

import json
import re
from typing import Any

_NAMES = (
    r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reasoning_content|reflection|scratchpad|"
    r"analysis|rationale|inner_monologue|antthinking)"
)
_LONG_NAMES = r"_(?:of_)?(?:thought|thinking|think)"
_TAGS = re.compile(
    r"(?<![`\"'“‘])(?:"  # in quotation marks it is only spoken of
    rf"(?P<close><\|?/\s*{_NAMES}\s*\|?>|<\|end{_LONG_NAMES}\|>|\[/think(?:ing)?\]|◁/think▷"
    r"|<unused95>)"
    rf"|(?P<open><\|?{_NAMES}(?:\s[^<>]{{0,80}})?\|?>|<\|(?:begin|start){_LONG_NAMES}\|>"
    r"|\[think(?:ing)?\]|◁think▷|<unused94>)"
    r"|(?P<object>\{))",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"<((?:prompt|response(?:-[AB])?)-[0-9a-f]{12})>.*?(?:</\1>|\Z)", re.DOTALL)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}(?:<\|constrain\|>\w*)?<\|message\|>")
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")  # harmony whose special tokens were removed
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
    channel = _final_channel(content)
    answer = None if channel is None else _without_thoughts(channel)
    if answer is None:
        return None
    answer = answer.lstrip().removeprefix("<|START_RESPONSE|>")
    answer = _END_OF_TURN.split(answer, maxsplit=1)[0]
    return _QUOTED.sub("", answer)


def _final_channel(content: str) -> str | None:
    """The last `final` message of a content in harmony's channels; other content as it is."""
    channels = list(_CHANNEL.finditer(content))
    if channels:
        return content[channels[-1].end() :] if channels[-1][1] == "final" else None
    if _BARE_ANALYSIS.match(content):
        _, mark, answer = content.rpartition("assistantfinal")
        return answer if mark else None
    return content


def _without_thoughts(content: str) -> str | None:
    """The content outside of its thoughts; None where they do not end."""
    outside: list[str] = []
    end = 0  # of what has been read
    object_end = 0
    thinks = False
    for tag in _TAGS.finditer(content):
        if tag.start() < object_end:
            continue
        if tag["object"]:
            decoded = None if thinks else decode_object(content, tag.start())
            object_end = object_end if decoded is None else decoded[1]
        elif tag["close"]:
            outside = outside if thinks else []
            thinks, end = False, tag.end()
        elif not thinks:
            outside.append(content[end : tag.start()])
            thinks = True
    return None if thinks else "\n".join([*outside, content[end:]])
