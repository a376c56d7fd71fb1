"""A row as a prompt, its responses, and what annotators said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from accord.data.checks import RowError
from accord.data.columns import Cells
from accord.data.prompts import parse_prompt, read_text
from accord.data.turns import RowAnswer, split_prompt_and_response
from accord.records import Prompt, Source

UNKNOWN_MODEL = "unknown"
MAX_RANK = 2**31 - 1  # what a database's integer holds


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A response, and the model that wrote it; `opened` is what the rendered prompt already wrote
    of it, such as `<think>`."""

    text: str
    model: str = UNKNOWN_MODEL
    finished: bool = True
    opened: str = ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one annotator said of some of the row's answers, which `answers` numbers from 0.

    A pair has an `outcome`, a ranking `ranks` (0 best), a rating a `score`. `annotator` is None
    where the row names none. `fields` are further fields of a verdict, such as `criterion`.
    `question` is the name of the question that it answers, where the row has several.
    """

    kind: Literal["pair", "ranking", "rating"]
    answers: tuple[int, ...]
    outcome: str | None = None
    ranks: tuple[int, ...] = ()
    score: float | None = None
    annotator: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    question: str | None = None


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row that a store can hold. `chosen_labels` are questions that some labels, not all, answer:
    they were chosen together, and give no order."""

    prompt: Prompt
    answers: tuple[JudgedAnswer, ...]
    opinions: tuple[Opinion, ...]
    chosen_labels: tuple[str, ...] = ()


def read_answers(
    values: Mapping[str, Any],
    prompt_column: str,
    responses: Mapping[str, Any],
    source: Source,
    notes: Counter[str],
) -> tuple[Prompt, list[str]]:
    """The prompt and the texts of the responses, by the columns that they are in.

    Raises RowError where one of them can't be used, or they respond to different prompts.
    """
    cells = Cells(values, {"prompt": prompt_column}, source, notes)
    prompt = parse_prompt(cells)
    answers = []
    for column, value in responses.items():
        given = read_text(cells, value, column) if isinstance(value, str) else value
        answers.append(split_prompt_and_response(prompt, given, column, notes))
    if any(before != answers[0][0] for before, _ in answers):
        raise RowError("the dialogues differ before the last answer")
    return answers[0][0], [plain_text(answer, "response") for _, answer in answers]


def plain_text(answer: RowAnswer, column: str) -> str:
    """The answer's text. Raises RowError for one with tool calls or thoughts, which a store has no
    columns for."""
    if answer.fields:
        raise RowError(
            "a response has fields beside its text, which a store can't hold", f"`{column}`"
        )
    return answer.text


def ranking_or_pair(ranks: Sequence[int], **fields: Any) -> Opinion:
    """An opinion on all answers of a row: a pair where there are two. Ranks begin at 0."""
    if len(ranks) < 2:
        raise RowError("fewer than two responses are ranked")
    best = min(ranks)
    moved = tuple(rank - best for rank in ranks)
    everything = tuple(range(len(ranks)))
    annotator = fields.pop("annotator", None)
    if len(moved) == 2:
        outcome = "tie" if moved[0] == moved[1] else "a" if moved[0] < moved[1] else "b"
        return Opinion("pair", everything, outcome, annotator=annotator, fields=fields)
    return Opinion("ranking", everything, ranks=moved, annotator=annotator, fields=fields)


def whole_ranks(values: Sequence[Any], column: str) -> list[int]:
    """Ranks as whole numbers. Raises RowError for one that is none."""
    ranks = []
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or abs(value) > MAX_RANK or value != int(value):
            raise RowError(f"`{column}` holds a rank that is no whole number", repr(value))
        ranks.append(int(value))
    return ranks


def signed_preference(value: float, column: str) -> tuple[str, int | None]:
    """Outcome and strength of a preference from −3 to 3, as HelpSteer's: below 0 the first response
    is better. Raises RowError outside of that range."""
    if value != int(value) or abs(value) > 3:
        raise RowError(f"`{column}` is no whole number from -3 to 3", repr(value))
    if value == 0:
        return "tie", None
    return ("a" if value < 0 else "b"), abs(int(value))
