"""Conversations as data sets write them: message lists, ShareGPT turns, HH-RLHF dialogue text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from accord.records import Message, Prompt, Role

ROLES: dict[str, Role] = {
    **{role: role for role in get_args(Role)},
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
}
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
HH_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


class RowError(ValueError):
    """A row that can't be used: `reason` groups rows of the same fault, `detail` is this row's."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def require_text(value: Any, column: str) -> str:
    """`value` as text that can be encoded. Raises RowError where it is not."""
    if value is None:
        raise RowError(f"no value in `{column}`")
    if not isinstance(value, str):
        raise RowError(
            f"`{column}` holds neither text nor messages",
            f"{type(value).__name__} {_truncate(value)}",
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(
                f"`{column}` holds half a character (a lone surrogate)", _truncate(ascii(value))
            ) from None
    return value


def require_response(response: str, column: str) -> str:
    """`response`, if it is not blank. Raises RowError where it is."""
    if not response.strip():
        raise RowError("an empty response", f"`{column}`")
    return response


def parse_turns(value: Sequence[Any], column: str) -> tuple[Message, ...]:
    """A list of `{role, content}` or of ShareGPT's `{from, value}` as messages."""
    if not value:
        raise RowError(f"`{column}` holds no messages")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError(f"`{column}` holds a turn that is no {{role, content}}", _truncate(turn))
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise RowError(f"`{column}` holds a turn of an unknown role", repr(role))
        turns.append(Message(ROLES[role], require_text(content, column)))
    return tuple(turns)


def is_hh_dialogue(value: Any) -> bool:
    """Whether `value` is a dialogue as HH-RLHF writes it, `\\n\\nHuman: …\\n\\nAssistant: …`."""
    return (
        isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value
    )


def parse_hh_dialogue(text: str) -> tuple[Message, ...]:
    """The turns of HH-RLHF dialogue text, each stripped of the blanks around it."""
    parts = HH_TURN.split(text.strip("\n"))
    if parts[0].strip() or len(parts) == 1:
        raise RowError("a dialogue that does not begin with Human: or Assistant:", _truncate(text))
    return tuple(
        Message(HH_ROLES[speaker], content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    )


def split_last_turn(turns: tuple[Message, ...], column: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the last, and the last turn's text. Raises RowError where the last turn is
    not the assistant's."""
    last = turns[-1]
    if last.role != "assistant":
        raise RowError(
            "the conversation does not end with the assistant's answer",
            f"`{column}` ends with the turn of the {last.role}: {_truncate(last.content)}",
        )
    return turns[:-1], require_response(last.content, column)


def split_prompt_and_response(prompt: Prompt, value: Any, column: str) -> tuple[Prompt, str]:
    """The full prompt and the response, where `value` responds to `prompt`.

    `value` is text, or messages that end with the response. The messages before it may repeat the
    prompt (as UltraFeedback's do) or extend it by further turns.
    """
    if not isinstance(value, list | tuple):
        return prompt, require_response(require_text(value, column), column)
    before, response = split_last_turn(parse_turns(value, column), column)
    prompt_turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not before or before == prompt_turns:
        return prompt_turns, response
    if before[: len(prompt_turns)] == prompt_turns:
        return before, response
    if isinstance(prompt, str) and any(
        turn.role == "user" and turn.content.strip() == prompt.strip() for turn in before
    ):
        return before, response
    if before[0].role == "assistant":
        return prompt_turns + before, response
    raise RowError(
        "the messages do not repeat the prompt", f"`{column}` begins {_truncate(before[0].content)}"
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


def _truncate(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")
