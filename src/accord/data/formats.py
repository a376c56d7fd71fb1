"""Parses a row of each format into a record; `Cells.notes` counts what was converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accord.data.checks import (
    RowError,
    parse_all_finished,
    parse_number,
    require_response,
    require_text,
)
from accord.data.columns import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    Cells,
    DialogueText,
    Format,
    detect_format,
    match_columns,
)
from accord.data.files import DataRow
from accord.data.pairs import (
    parse_implicit_preference,
    parse_labelled_pair,
    parse_preference,
)
from accord.data.prompts import (
    add_context,
    parse_prompt,
    parse_prompt_and_response,
    read_cell,
    read_text,
    require_learned,
    require_question,
)
from accord.data.turns import parse_turns, split_last_turn, split_prompt_and_response
from accord.data.values import has_non_finite, json_value
from accord.errors import DataError
from accord.records import (
    Demonstration,
    Message,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Text,
)

MAX_RANK = 2**31 - 1
LABELS: dict[str, bool] = {"true": True, "1": True, "false": False, "0": False}


def parse_record(
    row: DataRow,
    form: Format | None = None,
    names: Mapping[str, str] | None = None,
    notes: Counter[str] | None = None,
    dialogue_text: DialogueText = "turns",
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
        dialogue_text,
    )
    if form == "battle":
        raise DataError(f"{row.source} is a battle between models; read it with read_battles.")
    return PARSERS[form](cells)


def _parse_conversation(cells: Cells) -> Record:
    value, name = read_cell(cells, "messages"), cells.name("messages")
    if not isinstance(value, list | tuple):
        raise RowError(f"`{name}` is no list of messages", type(value).__name__)
    return _conversation(cells, value, name)


def _conversation(cells: Cells, value: Sequence[Any], name: str) -> Record:
    turns = parse_turns(value, name, cells.notes)
    system = cells.get("system")
    if isinstance(system, str) and system.strip() and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    turns = add_context(cells, turns)
    if turns[-1].role != "assistant":
        require_question(turns, name)
        return PromptOnly(turns, cells.source, collect_meta(cells, "messages"))
    before, answer = split_last_turn(turns, name)
    if all(turn.role == "system" for turn in before):
        raise RowError("a conversation in which nobody asks", f"`{name}`")
    require_question(before, name)
    return Demonstration(
        before, answer.text, cells.source, fields=answer.fields, learn=answer.learn
    )


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
    if not all(type(r) is int and 0 <= r <= MAX_RANK for r in ranks):
        raise RowError("`ranks` must be whole numbers from 0 (best)", str(ranks))
    votes = _parse_votes(cells.get("votes"), len(ranks))
    if len(set(ranks)) == 1 and not votes:
        raise RowError("all responses of the ranking tie")
    best = min(ranks)
    if best > 0:
        cells.notes["ranks that began above 0 are moved to begin at 0"] += 1
    prompt = parse_prompt(cells)
    answers = [
        split_prompt_and_response(prompt, response, "responses", cells.notes)
        for response in (
            read_text(cells, r, "responses") if isinstance(r, str) else r for r in responses
        )
    ]
    if any(answer[0] != answers[0][0] for answer in answers):
        raise RowError("the dialogues differ before the last answer")
    fields = tuple(answer.fields for _, answer in answers)
    return Ranking(
        answers[0][0],
        tuple(require_learned(answer, "responses").text for _, answer in answers),
        tuple(rank - best for rank in ranks),
        cells.source,
        parse_all_finished(cells.get("finished"), len(ranks)),
        fields if any(fields) else None,
        votes,
    )


def _parse_votes(value: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """The ranks that each of several annotators gave, where a row has them."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        isinstance(vote, list | tuple) and [type(rank) for rank in vote] == [int] * count
        for vote in value
    ):
        raise RowError(f"`votes` must be lists of {count} whole numbers", repr(value))
    if any(len(set(vote)) == 1 for vote in value):
        raise RowError("all responses of a vote tie")
    return tuple(map(tuple, value))


def _parse_unpaired(cells: Cells) -> Rating:
    label = cells.get("label")
    if not isinstance(label, bool):
        label = LABELS.get(str(label).strip().lower(), label)
    if not isinstance(label, bool):
        raise RowError("`label` is neither true nor false", repr(label))
    return _make_rating(cells, float(label))


def _parse_rating(cells: Cells) -> Rating:
    return _make_rating(cells, parse_number(cells.get("score"), cells.name("score")))


def _make_rating(cells: Cells, score: float) -> Rating:
    prompt, answer = parse_prompt_and_response(cells)
    require_learned(answer, cells.name("completion"))
    finished = _parse_finished(cells)
    return Rating(prompt, answer.text, score, cells.source, finished, answer.fields)


def _parse_finished(cells: Cells) -> bool:
    """Whether a row's only response ended with EOS; True where the row does not say."""
    value = cells.get("finished")
    if value is not None and not isinstance(value, bool):
        raise RowError("`finished` must be true or false", repr(value))
    return value is not False


def _parse_demonstration(cells: Cells) -> Demonstration:
    prompt, answer = parse_prompt_and_response(cells)
    finished = _parse_finished(cells)
    return Demonstration(prompt, answer.text, cells.source, finished, answer.fields, answer.learn)


def parse_demonstrations(row: DataRow, names: Mapping[str, str]) -> list[Demonstration]:
    """The responses of a line of responses.jsonl, each as a demonstration.

    Raises RowError where the row is not of that form.
    """
    cells = Cells(row.values, names, row.source)
    prompt, answers = parse_prompt(cells), cells.get("responses")
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


def _parse_text(cells: Cells) -> Record:
    value = read_cell(cells, "text")
    if isinstance(value, list):
        return _conversation(cells, value, "text")
    text = require_text(value, "text")
    if not text.strip():
        raise RowError("an empty text")
    return Text(text, cells.source)


def _parse_prompt_only(cells: Cells) -> PromptOnly:
    return PromptOnly(parse_prompt(cells), cells.source, collect_meta(cells, "prompt"))


def _parse_prompt_of_responses(cells: Cells) -> PromptOnly:
    return PromptOnly(parse_prompt(cells), cells.source, collect_meta(cells, "responses"))


def collect_meta(cells: Cells, form: Format) -> dict[str, Any]:
    """The row's columns that its format does not read, and the entries of its column `meta`."""
    read = {cells.name(c) for c in (*COLUMNS[form], *OPTIONAL_COLUMNS)}
    if form == "responses":
        read |= {"model", "settings"}  # these describe the responses
    rest = {c: v for c, v in cells.values.items() if c not in read}
    meta = cells.get("meta")
    whole = {**rest, **meta} if isinstance(meta, Mapping) else rest
    if has_non_finite(whole):
        cells.notes["numbers that are NaN or infinite are read as null"] += 1
    return {c: json_value(v) for c, v in whole.items()}


PARSERS: dict[Format, Callable[[Cells], Record]] = {
    "preference": parse_preference,
    "implicit preference": parse_implicit_preference,
    "labelled pair": parse_labelled_pair,
    "ranking": _parse_ranking,
    "responses": _parse_prompt_of_responses,
    "unpaired": _parse_unpaired,
    "rating": _parse_rating,
    "prompt-completion": _parse_demonstration,
    "messages": _parse_conversation,
    "text": _parse_text,
    "prompt": _parse_prompt_only,
}
