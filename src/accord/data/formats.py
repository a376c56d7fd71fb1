"""The record that a row says, for each format; how it was read is told in `Cells.notes`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from accord.data.columns import BESIDES, COLUMNS, Cells, Format, detect, names_of
from accord.data.files import Row
from accord.data.turns import (
    RowError,
    answer_to,
    hh_turns,
    is_hh_text,
    not_blank,
    shared_beginning,
    split_answer,
    text_of,
    turns_of,
)
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Demonstration,
    Message,
    Outcome,
    Prompt,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Text,
)

WINNERS: dict[str, Outcome] = {
    "model_a": "a",
    "model_b": "b",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
}
LABELS: dict[str, bool] = {"true": True, "1": True, "false": False, "0": False}


def record_of(
    row: Row,
    form: Format | None = None,
    names: Mapping[str, str] | None = None,
    notes: Counter[str] | None = None,
) -> Record:
    """What `row` says in the format `form` (by default what its columns are).

    Raises RowError where the row can't be used, with a reason that is the same for rows alike;
    DataError where its columns are no format's. `notes` counts what was read in another way than
    as it stands.
    """
    form = form or detect([c for c, value in row.values.items() if value is not None])
    cells = Cells(
        row.values,
        names_of(row.values) if names is None else names,
        row.source,
        Counter() if notes is None else notes,
    )
    if form == "battle":
        raise DataError(f"{row.source} is a battle between models; read it with read_battles.")
    return RECORDS[form](cells)


def battle_of(row: Row) -> Battle:
    """What an arena's row says. Raises RowError where the row can't be used."""
    model_a, model_b = (not_blank(text_of(row.values.get(c), c), c) for c in ("model_a", "model_b"))
    winner = text_of(row.values.get("winner"), "winner")
    if winner not in WINNERS:
        raise RowError(f"`winner` is none of {', '.join(WINNERS)}", repr(winner))
    if model_a == model_b:
        raise RowError("a model against itself", model_a)
    return Battle(model_a, model_b, WINNERS[winner])


def _prompt(cells: Cells) -> Prompt:
    value, name = cells.get("prompt"), cells.name("prompt")
    system = cells.get("system")
    lead = (Message("system", system),) if isinstance(system, str) and system.strip() else ()
    if isinstance(value, list | tuple):
        turns = turns_of(value, name)
        if all(not turn.content.strip() for turn in turns):
            raise RowError("an empty prompt")
        return turns if turns[0].role == "system" else lead + turns
    text = text_of(value, name)
    if not text.strip():
        raise RowError("an empty prompt")
    if is_hh_text(text):
        cells.notes["dialogue text (Human:, Assistant:) is read as turns"] += 1
        turns = hh_turns(text)
        return lead + (turns[:-1] if turns[-1] == Message("assistant", "") else turns)
    addition = cells.get("input") if name != "prompt" else None
    if isinstance(addition, str) and addition.strip():
        cells.notes[f"`input` is read as the end of `{name}`"] += 1
        text = f"{text}\n\n{addition}"
    if name != "prompt":
        cells.notes[f"`{name}` is read as the user's message"] += 1
        return (*lead, Message("user", text))
    return (*lead, Message("user", text)) if lead else text


def _answered(cells: Cells, column: str = "completion") -> tuple[Prompt, str]:
    name = cells.name(column)
    if name != column:
        cells.notes[f"`{name}` is read as the response"] += 1
    value = cells.get(column)
    if isinstance(value, str) and is_hh_text(cells.get("prompt")):
        value = value.strip()  # the blank after "Assistant:"
    return answer_to(_prompt(cells), value, name)


def _conversation(cells: Cells) -> Record:
    value, name = cells.get("messages"), cells.name("messages")
    if not isinstance(value, list | tuple):
        raise RowError(f"`{name}` is no list of messages", type(value).__name__)
    turns = turns_of(value, name)
    if turns[-1].role != "assistant":
        return PromptOnly(turns, cells.source, meta_of(cells, "messages"))
    before, response = split_answer(turns, name)
    if all(turn.role == "system" for turn in before):
        raise RowError("a conversation in which nobody asks", f"`{name}`")
    return Demonstration(before, response, cells.source)


def _pair(cells: Cells, chosen: tuple[Prompt, str], rejected: tuple[Prompt, str]) -> Comparison:
    if chosen[0] != rejected[0]:
        raise RowError("the dialogues differ before the last answer")
    if chosen[1] == rejected[1]:
        raise RowError("chosen and rejected are equal")
    margin = cells.get("margin")
    ended = _finished(cells.get("finished"), 2)
    return Comparison(
        prompt=chosen[0],
        chosen=chosen[1],
        rejected=rejected[1],
        margin=None if margin is None or margin == "" else _number(margin, "margin"),
        source=cells.source,
        chosen_finished=ended is None or ended[0],
        rejected_finished=ended is None or ended[1],
    )


def _preference(cells: Cells) -> Comparison:
    if is_hh_text(cells.get("chosen")) and is_hh_text(cells.get("rejected")):
        return _implicit(cells)  # the whole dialogues; the prompt column can add nothing
    _same_kind(cells.get("chosen"), cells.get("rejected"))
    return _pair(cells, _answered(cells, "chosen"), _answered(cells, "rejected"))


def _same_kind(chosen: Any, rejected: Any) -> None:
    if isinstance(chosen, str) != isinstance(rejected, str) and None not in (chosen, rejected):
        raise RowError("one of chosen and rejected is text, the other is not")


def _implicit(cells: Cells) -> Comparison:
    chosen, rejected = cells.get("chosen"), cells.get("rejected")
    _same_kind(chosen, rejected)
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        turns = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
    elif is_hh_text(chosen) or is_hh_text(rejected):
        cells.notes["dialogue text (Human:, Assistant:) is read as turns"] += 1
        turns = (
            hh_turns(text_of(chosen, "chosen")),
            hh_turns(text_of(rejected, "rejected")),
        )
    else:
        first, second = text_of(chosen, "chosen"), text_of(rejected, "rejected")
        if first == second:
            raise RowError("chosen and rejected are equal")
        end = shared_beginning(first, second)
        if not first[:end].strip():
            raise RowError("chosen and rejected share no beginning that could be the prompt")
        cells.notes["the prompt is the beginning that chosen and rejected share"] += 1
        prompt = first[:end]
        return _pair(
            cells,
            (prompt, not_blank(first[end:], "chosen")),
            (prompt, not_blank(second[end:], "rejected")),
        )
    pair = _pair(cells, split_answer(turns[0], "chosen"), split_answer(turns[1], "rejected"))
    if not pair.prompt:
        raise RowError("a conversation in which nobody asks", "`chosen`")
    return pair


def _ranking(cells: Cells) -> Ranking:
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
    prompt = _prompt(cells)
    answers = [answer_to(prompt, response, "responses") for response in responses]
    if any(answer[0] != answers[0][0] for answer in answers):
        raise RowError("the dialogues differ before the last answer")
    return Ranking(
        answers[0][0],
        tuple(answer[1] for answer in answers),
        tuple(rank - best for rank in ranks),
        cells.source,
        _finished(cells.get("finished"), len(ranks)),
    )


def _finished(value: Any, count: int) -> tuple[bool, ...] | None:
    """Which responses ended by themselves; None, where the row does not say, is all of them."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or [type(v) for v in value] != [bool] * count:
        raise RowError(f"`finished` must be {count} times true or false", str(value))
    return None if all(value) else tuple(value)


def _unpaired(cells: Cells) -> Rating:
    label = cells.get("label")
    if not isinstance(label, bool):
        label = LABELS.get(str(label).strip().lower(), label)
    if not isinstance(label, bool):
        raise RowError("`label` is neither true nor false", repr(label))
    prompt, response = _answered(cells)
    return Rating(prompt, response, float(label), cells.source, _ended(cells))


def _rating(cells: Cells) -> Rating:
    prompt, response = _answered(cells)
    score = _number(cells.get("score"), cells.name("score"))
    return Rating(prompt, response, score, cells.source, _ended(cells))


def _ended(cells: Cells) -> bool:
    """Whether a row's one response ended by itself, as it did where the row does not say."""
    value = cells.get("finished")
    if value is not None and not isinstance(value, bool):
        raise RowError("`finished` must be true or false", str(value))
    return value is not False


def _number(value: Any, column: str) -> float:
    """A finite number; text is allowed for CSV, which has nothing else."""
    if value is None:
        raise RowError(f"no value in `{column}`")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"`{column}` is no finite number", repr(value))
    return number


def _demonstration(cells: Cells) -> Demonstration:
    prompt, response = _answered(cells)
    return Demonstration(prompt, response, cells.source, _ended(cells))


def demonstrations_of(row: Row, names: Mapping[str, str]) -> list[Demonstration]:
    """The responses of a line of responses.jsonl, each as something to imitate.

    Raises RowError where the row is not of that form.
    """
    cells = Cells(row.values, names, row.source)
    prompt, answers = _prompt(cells), cells.get("responses")
    if not isinstance(answers, list | tuple) or not all(isinstance(a, Mapping) for a in answers):
        raise RowError("`responses` must be a list of objects, each with its `text`")
    return [
        Demonstration(
            prompt,
            not_blank(text_of(answer.get("text"), "responses"), "responses"),
            row.source,
            answer.get("finished") is not False,
        )
        for answer in answers
    ]


def _text(cells: Cells) -> Text:
    text = text_of(cells.get("text"), "text")
    if not text.strip():
        raise RowError("an empty text")
    return Text(text, cells.source)


def _prompt_only(cells: Cells) -> PromptOnly:
    return PromptOnly(_prompt(cells), cells.source, meta_of(cells, "prompt"))


def _prompt_of_responses(cells: Cells) -> PromptOnly:
    return PromptOnly(_prompt(cells), cells.source, meta_of(cells, "responses"))


def meta_of(cells: Cells, form: Format) -> dict[str, Any]:
    """What the row says besides its format: `meta` if it has it, and the columns not read."""
    read = {cells.name(c) for c in (*COLUMNS[form], *BESIDES)}
    if form == "responses":
        read |= {"model", "settings"}  # these tell of the responses
    others = {c: _plain(v) for c, v in cells.values.items() if c not in read}
    meta = cells.get("meta")
    return {**others, **meta} if isinstance(meta, Mapping) else others


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: dates and the like, which Parquet has, as text."""
    json_types = (str, int, float, bool, list, dict, type(None))
    return value if isinstance(value, json_types) else str(value)


RECORDS: dict[Format, Callable[[Cells], Record]] = {
    "preference": _preference,
    "implicit preference": _implicit,
    "ranking": _ranking,
    "responses": _prompt_of_responses,
    "unpaired": _unpaired,
    "rating": _rating,
    "prompt-completion": _demonstration,
    "messages": _conversation,
    "text": _text,
    "prompt": _prompt_only,
}
