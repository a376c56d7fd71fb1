"""The prompt of a row, and the response beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accord.data.checks import RowError, require_text, truncate
from accord.data.columns import Cells
from accord.data.turn_fields import CONTEXT_COLUMNS, context_column
from accord.data.turns import (
    RowAnswer,
    is_hh_dialogue,
    parse_hh_dialogue,
    parse_turns,
    split_prompt_and_response,
)
from accord.data.written_messages import messages_in_text
from accord.records import Message, Prompt, prompt_context, with_context

DIALOGUE_NOTE = "dialogue text (Human:, Assistant:) is read as turns"
KEPT_NOTES = {
    "keep": "dialogue text (Human:, Assistant:) stays text",
    "no template": "dialogue text (Human:, Assistant:) stays text, as the tokenizer has no chat "
    "template",
}


def read_cell(cells: Cells, column: str) -> Any:
    """The value of a known column; messages that are written as text, or alone, as their list."""
    value = cells.get(column)
    if isinstance(value, str):
        return read_text(cells, value, cells.name(column))
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        return [value]
    return value


def read_text(cells: Cells, text: str, name: str) -> Any:
    """A text, or the messages that it writes."""
    messages = messages_in_text(text, name)
    if messages is None:
        return text
    cells.notes[f"messages that `{name}` holds as text are read as messages"] += 1
    return messages


def is_dialogue(cells: Cells, value: Any) -> bool:
    """Whether a value is dialogue text to be read as turns; a note says if it stays text."""
    if not is_hh_dialogue(value):
        return False
    if cells.dialogue_text != "turns":
        cells.notes[KEPT_NOTES[cells.dialogue_text]] += 1
    return cells.dialogue_text == "turns"


def parse_prompt(cells: Cells) -> Prompt:
    """The row's prompt: its text, or its turns with the row's system prompt and tools.

    Raises RowError where it has none that can be used.
    """
    prompt = _parse_prompt(cells)
    return prompt if isinstance(prompt, str) else add_context(cells, prompt)


def _parse_prompt(cells: Cells) -> Prompt:
    value, name = read_cell(cells, "prompt"), cells.name("prompt")
    system = cells.get("system")
    system_turn = (Message("system", system),) if isinstance(system, str) and system.strip() else ()
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list | tuple):
        turns = parse_turns(value["messages"], name, cells.notes)
        context = {c: context_column(value.get(c), c) for c in CONTEXT_COLUMNS}
        return with_context(turns, {c: items for c, items in context.items() if items})
    if isinstance(value, list | tuple):
        turns = parse_turns(value, name, cells.notes)
        if all(not turn.content.strip() for turn in turns):
            raise RowError("an empty prompt")
        return turns if turns[0].role == "system" else system_turn + turns
    text = require_text(value, name)
    if not text.strip():
        raise RowError("an empty prompt")
    if is_dialogue(cells, text):
        cells.notes[DIALOGUE_NOTE] += 1
        turns = parse_hh_dialogue(text)
        return system_turn + (turns[:-1] if turns[-1] == Message("assistant", "") else turns)
    addition = cells.get("input") if name not in ("prompt", "input") else None
    if isinstance(addition, str) and addition.strip():
        cells.notes[f"`input` is read as the end of `{name}`"] += 1
        text = f"{text}\n\n{addition}"
    if name != "prompt":
        cells.notes[f"`{name}` is read as the user's message"] += 1
        return (*system_turn, Message("user", text))
    return (*system_turn, Message("user", text)) if system_turn else text


def add_context(cells: Cells, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns with the tools and documents of the row's columns, beside what they have."""
    context = prompt_context(turns)
    for column in CONTEXT_COLUMNS:
        items = context_column(cells.values.get(column), column)
        if items:
            cells.notes[context_note(column)] += 1
            context[column] = items
    return with_context(turns, context)


def context_note(column: str) -> str:
    """The note that a row's column goes to the chat template."""
    return f"`{column}` goes to the chat template"


def parse_prompt_and_response(cells: Cells, column: str = "completion") -> tuple[Prompt, RowAnswer]:
    """The row's prompt and the response in a known column. Raises RowError."""
    name = cells.name(column)
    if name != column:
        cells.notes[f"`{name}` is read as the response"] += 1
    value = read_cell(cells, column)
    if isinstance(value, str) and is_dialogue(cells, cells.get("prompt")):
        value = value.strip()  # the blank after "Assistant:"
    return split_prompt_and_response(parse_prompt(cells), value, name, cells.notes)


def require_learned(answer: RowAnswer, column: str) -> RowAnswer:
    """The answer. Raises RowError where its row marks it as not to be learned."""
    if not answer.learn:
        raise RowError("its answer is marked as not to be learned", f"`{column}`")
    return answer


def describe(value: Any) -> str:
    """A value's type and its beginning."""
    return f"{type(value).__name__} {truncate(value)}"


def require_question(before: Prompt, column: str) -> None:
    """Raise RowError where the turn before a conversation's answer is the assistant's too, or where
    all turns before it are blank.

    In a `prompt` such a turn is the beginning of the answer, which a list of turns can't mean.
    """
    if not isinstance(before, str) and not any(turn.content.strip() for turn in before):
        raise RowError("an empty prompt")
    if not isinstance(before, str) and before[-1].role == "assistant":
        raise RowError("the last two turns are both the assistant's", f"`{column}`")
