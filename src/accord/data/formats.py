"""Parses a row of each format into a record; `Cells.notes` counts what was converted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from accord.data.columns import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    Cells,
    Format,
    detect_format,
    match_columns,
)
from accord.data.files import DataRow
from accord.data.turns import (
    RowError,
    is_hh_dialogue,
    parse_hh_dialogue,
    parse_turns,
    require_response,
    require_text,
    shared_prefix_length,
    split_last_turn,
    split_prompt_and_response,
)
from accord.errors import DataError
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Text,
)

LABELS: dict[str, bool] = {"true": True, "1": True, "false": False, "0": False}


def parse_record(
    row: DataRow,
    form: Format | None = None,
    names: Mapping[str, str] | None = None,
    notes: Counter[str] | None = None,
) -> Record:
    """The record in `row`, read in the format `form` (by default the one its columns match).

    Raises RowError where the row can't be used, with a reason that is the same for every row with
    that fault; DataError where its columns match no format. `notes` counts the conversions.
    """
    form = form or detect_format([c for c, value in row.values.items() if value is not None])
    cells = Cells(
        row.values,
        match_columns(row.values) if names is None else names,
        row.source,
        Counter() if notes is None else notes,
    )
    if form == "battle":
        raise DataError(f"{row.source} is a battle between models; read it with read_battles.")
    return PARSERS[form](cells)


def _parse_prompt(cells: Cells) -> Prompt:
    value, name = cells.get("prompt"), cells.name("prompt")
    system = cells.get("system")
    system_turn = (Message("system", system),) if isinstance(system, str) and system.strip() else ()
    if isinstance(value, list | tuple):
        turns = parse_turns(value, name)
        if all(not turn.content.strip() for turn in turns):
            raise RowError("an empty prompt")
        return turns if turns[0].role == "system" else system_turn + turns
    text = require_text(value, name)
    if not text.strip():
        raise RowError("an empty prompt")
    if is_hh_dialogue(text):
        cells.notes["dialogue text (Human:, Assistant:) is read as turns"] += 1
        turns = parse_hh_dialogue(text)
        return system_turn + (turns[:-1] if turns[-1] == Message("assistant", "") else turns)
    addition = cells.get("input") if name != "prompt" else None
    if isinstance(addition, str) and addition.strip():
        cells.notes[f"`input` is read as the end of `{name}`"] += 1
        text = f"{text}\n\n{addition}"
    if name != "prompt":
        cells.notes[f"`{name}` is read as the user's message"] += 1
        return (*system_turn, Message("user", text))
    return (*system_turn, Message("user", text)) if system_turn else text


def _parse_prompt_and_response(cells: Cells, column: str = "completion") -> tuple[Prompt, str]:
    name = cells.name(column)
    if name != column:
        cells.notes[f"`{name}` is read as the response"] += 1
    value = cells.get(column)
    if isinstance(value, str) and is_hh_dialogue(cells.get("prompt")):
        value = value.strip()  # the blank after "Assistant:"
    return split_prompt_and_response(_parse_prompt(cells), value, name)


def _parse_conversation(cells: Cells) -> Record:
    value, name = cells.get("messages"), cells.name("messages")
    if not isinstance(value, list | tuple):
        raise RowError(f"`{name}` is no list of messages", type(value).__name__)
    turns = parse_turns(value, name)
    if turns[-1].role != "assistant":
        return PromptOnly(turns, cells.source, collect_meta(cells, "messages"))
    before, response = split_last_turn(turns, name)
    if all(turn.role == "system" for turn in before):
        raise RowError("a conversation in which nobody asks", f"`{name}`")
    _require_question(before, name)
    return Demonstration(before, response, cells.source)


def _make_comparison(
    cells: Cells, chosen: tuple[Prompt, str], rejected: tuple[Prompt, str]
) -> Comparison:
    if chosen[0] != rejected[0]:
        raise RowError("the dialogues differ before the last answer")
    if chosen[1] == rejected[1]:
        raise RowError("chosen and rejected are equal")
    margin = cells.get("margin")
    finished = _parse_all_finished(cells.get("finished"), 2)
    return Comparison(
        prompt=chosen[0],
        chosen=chosen[1],
        rejected=rejected[1],
        margin=None if margin is None or margin == "" else _parse_number(margin, "margin"),
        source=cells.source,
        chosen_finished=finished is None or finished[0],
        rejected_finished=finished is None or finished[1],
    )


def _parse_preference(cells: Cells) -> Comparison:
    if is_hh_dialogue(cells.get("chosen")) and is_hh_dialogue(cells.get("rejected")):
        return _parse_implicit_preference(cells)  # the whole dialogues, which contain the prompt
    _require_same_type(cells.get("chosen"), cells.get("rejected"))
    return _make_comparison(
        cells,
        _parse_prompt_and_response(cells, "chosen"),
        _parse_prompt_and_response(cells, "rejected"),
    )


def _require_same_type(chosen: Any, rejected: Any) -> None:
    if isinstance(chosen, str) != isinstance(rejected, str) and None not in (chosen, rejected):
        raise RowError("one of chosen and rejected is text, the other is not")


def _parse_implicit_preference(cells: Cells) -> Comparison:
    chosen, rejected = cells.get("chosen"), cells.get("rejected")
    _require_same_type(chosen, rejected)
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        turns = parse_turns(chosen, "chosen"), parse_turns(rejected, "rejected")
    elif is_hh_dialogue(chosen) or is_hh_dialogue(rejected):
        cells.notes["dialogue text (Human:, Assistant:) is read as turns"] += 1
        turns = (
            parse_hh_dialogue(require_text(chosen, "chosen")),
            parse_hh_dialogue(require_text(rejected, "rejected")),
        )
    else:
        first, second = require_text(chosen, "chosen"), require_text(rejected, "rejected")
        if first == second:
            raise RowError("chosen and rejected are equal")
        end = shared_prefix_length(first, second)
        if not first[:end].strip():
            raise RowError("chosen and rejected share no beginning that could be the prompt")
        cells.notes["the prompt is the beginning that chosen and rejected share"] += 1
        prompt = first[:end]
        return _make_comparison(
            cells,
            (prompt, require_response(first[end:], "chosen")),
            (prompt, require_response(second[end:], "rejected")),
        )
    pair = _make_comparison(
        cells, split_last_turn(turns[0], "chosen"), split_last_turn(turns[1], "rejected")
    )
    if not pair.prompt:
        raise RowError("a conversation in which nobody asks", "`chosen`")
    _require_question(pair.prompt, "chosen")
    return pair


def _require_question(before: Prompt, column: str) -> None:
    """Raise RowError where the turn before a conversation's answer is the assistant's too.

    In a `prompt` such a turn is the beginning of the answer, which a list of turns can't mean.
    """
    if not isinstance(before, str) and before[-1].role == "assistant":
        raise RowError("the last two turns are both the assistant's", f"`{column}`")


def _parse_ranking(cells: Cells) -> Ranking:
    responses, ranks = cells.get("responses"), cells.get("ranks")
    for column in ("responses", "ranks"):
        if cells.get(column) is None:
            raise RowError(f"no value in `{column}`")
    if not isinstance(responses, list | tuple) or not isinstance(ranks, list | tuple):
        raise RowError("`responses` and `ranks` must be lists")
    if len(responses) != len(ranks) or len(ranks) < 2:
        raise RowError(
            "`responses` and `ranks` must be two or more, and as many",
            f"{len(responses)} responses, {len(ranks)} ranks",
        )
    if not all(isinstance(r, int) and not isinstance(r, bool) and r >= 0 for r in ranks):
        raise RowError("`ranks` must be whole numbers from 0 (best)", str(ranks))
    if len(set(ranks)) == 1:
        raise RowError("all responses of the ranking tie")
    best = min(ranks)
    if best > 0:
        cells.notes["ranks that began above 0 are moved to begin at 0"] += 1
    prompt = _parse_prompt(cells)
    answers = [split_prompt_and_response(prompt, response, "responses") for response in responses]
    if any(answer[0] != answers[0][0] for answer in answers):
        raise RowError("the dialogues differ before the last answer")
    return Ranking(
        answers[0][0],
        tuple(answer[1] for answer in answers),
        tuple(rank - best for rank in ranks),
        cells.source,
        _parse_all_finished(cells.get("finished"), len(ranks)),
    )


def _parse_all_finished(value: Any, count: int) -> tuple[bool, ...] | None:
    """Which responses ended with EOS; None where all did, or where the row does not say."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or [type(v) for v in value] != [bool] * count:
        raise RowError(f"`finished` must be {count} times true or false", str(value))
    return None if all(value) else tuple(value)


def _parse_unpaired(cells: Cells) -> Rating:
    label = cells.get("label")
    if not isinstance(label, bool):
        label = LABELS.get(str(label).strip().lower(), label)
    if not isinstance(label, bool):
        raise RowError("`label` is neither true nor false", repr(label))
    prompt, response = _parse_prompt_and_response(cells)
    return Rating(prompt, response, float(label), cells.source, _parse_finished(cells))


def _parse_rating(cells: Cells) -> Rating:
    prompt, response = _parse_prompt_and_response(cells)
    score = _parse_number(cells.get("score"), cells.name("score"))
    return Rating(prompt, response, score, cells.source, _parse_finished(cells))


def _parse_finished(cells: Cells) -> bool:
    """Whether a row's only response ended with EOS; True where the row does not say."""
    value = cells.get("finished")
    if value is not None and not isinstance(value, bool):
        raise RowError("`finished` must be true or false", str(value))
    return value is not False


def _parse_number(value: Any, column: str) -> float:
    """A finite number, or its digits as text, since CSV holds text only."""
    if value is None:
        raise RowError(f"no value in `{column}`")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"`{column}` is no finite number", repr(value))
    return number


def _parse_demonstration(cells: Cells) -> Demonstration:
    prompt, response = _parse_prompt_and_response(cells)
    return Demonstration(prompt, response, cells.source, _parse_finished(cells))


def parse_demonstrations(row: DataRow, names: Mapping[str, str]) -> list[Demonstration]:
    """The responses of a line of responses.jsonl, each as a demonstration.

    Raises RowError where the row is not of that form.
    """
    cells = Cells(row.values, names, row.source)
    prompt, answers = _parse_prompt(cells), cells.get("responses")
    if not isinstance(answers, list | tuple) or not all(isinstance(a, Mapping) for a in answers):
        raise RowError("`responses` must be a list of objects, each with its `text`")
    return [
        Demonstration(
            prompt,
            require_response(require_text(answer.get("text"), "responses"), "responses"),
            row.source,
            answer.get("finished") is not False,
        )
        for answer in answers
    ]


def _parse_text(cells: Cells) -> Text:
    text = require_text(cells.get("text"), "text")
    if not text.strip():
        raise RowError("an empty text")
    return Text(text, cells.source)


def _parse_prompt_only(cells: Cells) -> PromptOnly:
    return PromptOnly(_parse_prompt(cells), cells.source, collect_meta(cells, "prompt"))


def _parse_prompt_of_responses(cells: Cells) -> PromptOnly:
    return PromptOnly(_parse_prompt(cells), cells.source, collect_meta(cells, "responses"))


def collect_meta(cells: Cells, form: Format) -> dict[str, Any]:
    """The row's columns that its format does not read, and the entries of its column `meta`."""
    read = {cells.name(c) for c in (*COLUMNS[form], *OPTIONAL_COLUMNS)}
    if form == "responses":
        read |= {"model", "settings"}  # these describe the responses
    rest = {c: _to_json_value(v) for c, v in cells.values.items() if c not in read}
    meta = cells.get("meta")
    return {**rest, **meta} if isinstance(meta, Mapping) else rest


def _to_json_value(value: Any) -> Any:
    """`value` as JSON can hold it; other types, such as Parquet's dates, become text."""
    json_types = (str, int, float, bool, list, dict, type(None))
    return value if isinstance(value, json_types) else str(value)


PARSERS: dict[Format, Callable[[Cells], Record]] = {
    "preference": _parse_preference,
    "implicit preference": _parse_implicit_preference,
    "ranking": _parse_ranking,
    "responses": _parse_prompt_of_responses,
    "unpaired": _parse_unpaired,
    "rating": _parse_rating,
    "prompt-completion": _parse_demonstration,
    "messages": _parse_conversation,
    "text": _parse_text,
    "prompt": _parse_prompt_only,
}
