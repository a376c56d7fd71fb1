"""Comparisons: two responses under `chosen` and `rejected`, or under any names with a label."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from accord.data.checks import (
    RowError,
    parse_all_finished,
    parse_number,
    require_response,
    require_text,
)
from accord.data.columns import Cells
from accord.data.pair_columns import preferred_side
from accord.data.prompts import (
    DIALOGUE_NOTE,
    add_context,
    is_dialogue,
    parse_prompt,
    parse_prompt_and_response,
    read_cell,
    require_learned,
    require_question,
)
from accord.data.turns import (
    RowAnswer,
    parse_hh_dialogue,
    parse_turns,
    shared_prefix_length,
    split_last_turn,
    split_prompt_and_response,
)
from accord.records import Comparison, Message, Prompt, Record

Side = tuple[Prompt, RowAnswer]
"""A prompt with one of the two responses to it."""


def _make_comparison(cells: Cells, chosen: Side, rejected: Side) -> Comparison:
    if chosen[0] != rejected[0]:
        raise RowError("the dialogues differ before the last answer")
    if chosen[1] == rejected[1]:
        raise RowError("chosen and rejected are equal")
    require_learned(chosen[1], cells.name("chosen"))
    require_learned(rejected[1], cells.name("rejected"))
    margin = cells.get("margin")
    finished = parse_all_finished(cells.get("finished"), 2)
    pair = Comparison(
        prompt=chosen[0],
        chosen=chosen[1].text,
        rejected=rejected[1].text,
        margin=None if margin is None or margin == "" else parse_number(margin, "margin"),
        source=cells.source,
        chosen_finished=finished is None or finished[0],
        rejected_finished=finished is None or finished[1],
        chosen_fields=chosen[1].fields,
        rejected_fields=rejected[1].fields,
    )
    return _with_probability(pair, cells)


def _with_probability(pair: Comparison, cells: Cells) -> Comparison:
    """The pair with the soft label in the column `probability`, that of `chosen` being better; the
    more probable response is the chosen one. Other forms of pairs have no such column."""
    value = cells.get("probability")
    if value is None or value == "" or "preferred" in cells.names:
        return pair
    probability = parse_number(value, "probability")
    if not 0 <= probability <= 1:
        raise RowError("`probability` is not from 0 to 1", repr(value))
    if probability == 0.5:
        raise RowError("`probability` is 0.5: neither response is preferred")
    if probability < 0.5:
        cells.notes["pairs with a `probability` below 0.5 are turned around"] += 1
        probability = 1 - probability
        pair = replace(
            pair,
            chosen=pair.rejected,
            rejected=pair.chosen,
            chosen_finished=pair.rejected_finished,
            rejected_finished=pair.chosen_finished,
            chosen_fields=pair.rejected_fields,
            rejected_fields=pair.chosen_fields,
        )
    return replace(pair, probability=probability if probability < 1 else None)


def parse_preference(cells: Cells) -> Comparison:
    """A row with `prompt`, `chosen` and `rejected`."""
    if is_dialogue(cells, cells.get("chosen")) and is_dialogue(cells, cells.get("rejected")):
        return parse_implicit_preference(cells)  # the whole dialogues, which contain the prompt
    _require_same_type(read_cell(cells, "chosen"), read_cell(cells, "rejected"))
    return _make_comparison(
        cells,
        parse_prompt_and_response(cells, "chosen"),
        parse_prompt_and_response(cells, "rejected"),
    )


def _require_same_type(chosen: Any, rejected: Any) -> None:
    if isinstance(chosen, str) != isinstance(rejected, str) and None not in (chosen, rejected):
        raise RowError("one of chosen and rejected is text, the other is not")


def parse_implicit_preference(cells: Cells) -> Comparison:
    """A row with `chosen` and `rejected` that both hold the prompt, or whose conversation before
    them is in `messages`."""
    chosen, rejected = read_cell(cells, "chosen"), read_cell(cells, "rejected")
    _require_same_type(chosen, rejected)
    before = read_cell(cells, "messages")
    if isinstance(before, list | tuple):
        prompt = add_context(cells, parse_turns(before, cells.name("messages"), cells.notes))
        return _make_comparison(
            cells,
            split_prompt_and_response(prompt, chosen, "chosen", cells.notes),
            split_prompt_and_response(prompt, rejected, "rejected", cells.notes),
        )
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        turns = tuple(
            add_context(cells, parse_turns(value, name, cells.notes))
            for value, name in ((chosen, "chosen"), (rejected, "rejected"))
        )
    elif is_dialogue(cells, chosen) or is_dialogue(cells, rejected):
        cells.notes[DIALOGUE_NOTE] += 1
        turns = (
            parse_hh_dialogue(require_text(chosen, "chosen")),
            parse_hh_dialogue(require_text(rejected, "rejected")),
        )
    else:
        return _split_shared_beginning(
            cells, require_text(chosen, "chosen"), require_text(rejected, "rejected")
        )
    pair = _make_comparison(
        cells, split_last_turn(turns[0], "chosen"), split_last_turn(turns[1], "rejected")
    )
    if not pair.prompt:
        raise RowError("a conversation in which nobody asks", "`chosen`")
    require_question(pair.prompt, "chosen")
    return pair


def _split_shared_beginning(cells: Cells, first: str, second: str) -> Comparison:
    if first == second:
        raise RowError("chosen and rejected are equal")
    end = shared_prefix_length(first, second)
    if not first[:end].strip():
        raise RowError("chosen and rejected share no beginning that could be the prompt")
    cells.notes["the prompt is the beginning that chosen and rejected share"] += 1
    prompt = first[:end]
    return _make_comparison(
        cells,
        (prompt, RowAnswer(require_response(first[end:], "chosen"))),
        (prompt, RowAnswer(require_response(second[end:], "rejected"))),
    )


def parse_labelled_pair(cells: Cells) -> Record:
    """A row with two responses and a column that says which is preferred, under any names."""
    names = [cells.name(column) for column in ("response_a", "response_b")]
    side = preferred_side(cells)
    if side == "tie":
        raise RowError("neither response is preferred", f"`{cells.name('preferred')}`")
    cells.notes[
        f"`{names[0]}` and `{names[1]}` are read as a pair, of which "
        f"`{cells.name('preferred')}` names the preferred one"
    ] += 1
    sides = parse_sides(cells)
    return _make_comparison(cells, *(sides if side == "a" else sides[::-1]))


def parse_sides(cells: Cells) -> tuple[Side, Side]:
    """The prompt with the first response of a labelled pair, and with the second. Raises RowError
    where one of them is missing or they are no text."""
    names = [cells.name(column) for column in ("response_a", "response_b")]
    return _arena_sides(cells, names) or _text_sides(cells, names)


def _text_sides(cells: Cells, names: list[str]) -> tuple[Side, Side]:
    values = read_cell(cells, "response_a"), read_cell(cells, "response_b")
    _require_same_type(*values)
    if cells.get("prompt") is not None:
        prompt = parse_prompt(cells)
        first, second = (
            split_prompt_and_response(prompt, value, name, cells.notes)
            for value, name in zip(values, names, strict=True)
        )
        return first, second
    if not all(isinstance(value, list | tuple) for value in values):
        raise RowError("a pair of responses without a prompt", f"`{names[0]}`")
    first, second = (
        split_last_turn(add_context(cells, parse_turns(value, name, cells.notes)), name)
        for value, name in zip(values, names, strict=True)
    )
    if not first[0]:
        raise RowError("a conversation in which nobody asks", f"`{names[0]}`")
    return first, second


def _arena_sides(cells: Cells, names: list[str]) -> tuple[Side, Side] | None:
    """Both sides of a row whose prompt and responses are lists of texts, one for each turn, as an
    arena's export has them; None where they are no such lists."""
    columns = (cells.get(column) for column in ("prompt", "response_a", "response_b"))
    asked, *answered = (_texts_in(value) for value in columns)
    if asked is None or None in answered:
        return None
    first, second = (
        _interleave(asked, answers, name)
        for answers, name in zip(answered, names, strict=True)
        if answers is not None
    )
    return first, second


def _interleave(asked: list[Any], answers: list[Any], name: str) -> Side:
    if len(asked) != len(answers):
        raise RowError("the prompts and the responses of its turns are not as many", f"`{name}`")
    texts = [require_text(text, name) for text in answers]
    turns: list[Message] = []
    for question, answer in zip(asked, texts, strict=True):
        turns += [Message("user", require_text(question, "prompt")), Message("assistant", answer)]
    return tuple(turns[:-1]), RowAnswer(require_response(texts[-1], name))


def _texts_in(value: Any) -> list[Any] | None:
    """The texts in a list of texts, or in JSON text of one; None where it is no such list."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, list | tuple) and value and all(isinstance(v, str | None) for v in value):
        return list(value)
    return None
