"""Conversations as data sets write them: message lists, ShareGPT turns, HH-RLHF dialogue text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from accord.data.checks import RowError, require_response, require_text, truncate
from accord.data.turn_fields import (
    LEARN_MARKS,
    is_learned,
    parse_function_call,
    template_fields,
    unread_keys,
)
from accord.records import Message, Prompt, Role, fields_json, prompt_context, with_context

ROLES: dict[str, Role] = {
    **{role: role for role in get_args(Role)},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
    "ipython": "tool",
    "developer": "system",
    "function_call": "assistant",
}
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
HH_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """A response as its row has it; `fields` and `learn` are as a `Message` has them."""

    text: str
    fields: str = ""
    learn: bool = True


def parse_turns(
    value: Sequence[Any], column: str, notes: Counter[str] | None = None
) -> tuple[Message, ...]:
    """A list of `{role, content}` or of ShareGPT's `{from, value}` as messages.

    `notes` counts what is converted or not read. Raises RowError where a turn can't be read.
    """
    if not value:
        raise RowError(f"`{column}` holds no messages")
    remarks: dict[str, None] = {}
    turns = tuple(_parse_turn(turn, column, remarks) for turn in value)
    if notes is not None:
        notes.update(remarks.keys())
    return turns


def _parse_turn(turn: Any, column: str, remarks: dict[str, None]) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"`{column}` holds a turn that is no {{role, content}}", truncate(turn))
    name = turn["role"] if turn.get("role") is not None else turn.get("from")
    if not isinstance(name, str) or name not in ROLES:
        raise RowError(f"`{column}` holds a turn of an unknown role", repr(name))
    role, learn = ROLES[name], is_learned(turn)
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if name == "developer":
        remarks["the role `developer` is read as `system`"] = None
    for key in unread_keys(turn):
        remarks[f"`{key}` of the turns is not read"] = None
    if role != "assistant" and any(turn.get(key) for key in LEARN_MARKS):
        remarks["only turns of the assistant are learned, whatever others are marked as"] = None
    if name == "function_call":
        fields = {**template_fields(turn, column), **parse_function_call(content, column)}
        return Message(role, "", fields_json(fields), learn=learn)
    fields = template_fields(turn, column)
    if content is None and "tool_calls" in fields:
        return Message(role, "", fields_json({"content": None, **fields}), learn=learn)
    if isinstance(content, list | tuple) and content:
        content = _join_parts(content, column, remarks)
    return Message(role, require_text(content, column), fields_json(fields), learn=learn)


def _join_parts(parts: Sequence[Any], column: str, remarks: dict[str, None]) -> str:
    """The text of a content in parts, as `[{"type": "text", "text": …}]`, a line a part."""
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("text", "input_text", "output_text") or part.get("text") is None:
            raise RowError(f"`{column}` holds a turn with a part that is no text", repr(kind))
        texts.append(require_text(part["text"], column))
    if len(texts) > 1:
        remarks["the parts of a turn's content are joined by line breaks"] = None
    return "\n".join(texts)


def is_hh_dialogue(value: Any) -> bool:
    """Whether `value` is a dialogue as HH-RLHF writes it, `\\n\\nHuman: …\\n\\nAssistant: …`."""
    return (
        isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value
    )


def parse_hh_dialogue(text: str) -> tuple[Message, ...]:
    """The turns of HH-RLHF dialogue text, each stripped of the blanks around it."""
    parts = HH_TURN.split(text.strip("\n"))
    if parts[0].strip() or len(parts) == 1:
        raise RowError("a dialogue that does not begin with Human: or Assistant:", truncate(text))
    return tuple(
        Message(HH_ROLES[speaker], content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    )


def split_last_turn(
    turns: tuple[Message, ...], column: str
) -> tuple[tuple[Message, ...], RowAnswer]:
    """The turns before the last, and the last turn as an answer. Raises RowError where the last
    turn is not the assistant's, or says and calls nothing."""
    last = turns[-1]
    if last.role != "assistant":
        raise RowError(
            "the conversation does not end with the assistant's answer",
            f"`{column}` ends with the turn of the {last.role}: {truncate(last.content)}",
        )
    if not last.fields:
        require_response(last.content, column)
    return turns[:-1], RowAnswer(last.content, last.fields, last.learn)


def split_prompt_and_response(
    prompt: Prompt, value: Any, column: str, notes: Counter[str] | None = None
) -> tuple[Prompt, RowAnswer]:
    """The full prompt and the response, where `value` responds to `prompt`.

    `value` is text, one message, or messages that end with the response. The messages before it may
    repeat the prompt (as UltraFeedback's do) or extend it by further turns.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        return prompt, RowAnswer(require_response(require_text(value, column), column))
    before, response = split_last_turn(parse_turns(value, column, notes), column)
    prompt_turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    context = prompt_context(prompt)
    plain = with_context(prompt_turns, {})
    if not before or before == plain:
        return prompt_turns, response
    if before[: len(plain)] == plain:
        return with_context(before, context), response
    if isinstance(prompt, str) and any(
        turn.role == "user" and turn.content.strip() == prompt.strip() for turn in before
    ):
        return before, response
    if before[0].role == "assistant":
        return prompt_turns + before, response
    raise RowError(
        "the messages do not repeat the prompt", f"`{column}` begins {truncate(before[0].content)}"
    )


def shared_prefix_length(chosen: str, rejected: str) -> int:
    """Length of the prompt that two texts share, cut back to the last blank so that no word splits.

    The blank goes to the responses, since tokenizers put it in front of a word.
    """
    pairs = enumerate(zip(chosen, rejected, strict=False))
    differ = next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    shared = chosen[:differ]
    last_word = len(shared) if not shared else len(shared) - len(re.split(r"\s", shared)[-1])
    return len(shared[:last_word].rstrip())
