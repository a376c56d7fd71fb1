"""The models' answers to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from accord.data.write import ResponseRow
from accord.measure.rows.texts import question
from accord.measure.texts.refusals import grade_refusal
from accord.records import Prompt, prompt_text
from accord.report.formatting import split_text, visible


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's first response to a prompt; `rest` is the part of a long one that is folded."""

    model: str
    text: str
    rest: str
    refuses: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, its kind where the data have one, and every model's answer."""

    prompt: str
    rest: str
    kind: str
    answers: tuple[Answer, ...]


def examples(answers: Mapping[str, Sequence[ResponseRow]], limit: int) -> list[Example]:
    """Up to `limit` prompts that all models answered, one of each kind in turn, in the first
    model's order. Where no prompt is shared, those that only some models answered are used."""
    by_model = {name: {row.prompt: row for row in rows} for name, rows in answers.items()}
    order = list(dict.fromkeys(row.prompt for rows in answers.values() for row in rows))
    shared = [prompt for prompt in order if all(prompt in rows for rows in by_model.values())]
    kinds: dict[str, list[Prompt]] = {}
    for prompt in shared or order:
        row = next(rows[prompt] for rows in by_model.values() if prompt in rows)
        kinds.setdefault(str(row.meta.get("kind") or ""), []).append(prompt)
    turns = [prompt for turn in zip_longest(*kinds.values()) for prompt in turn if prompt]
    return [_example(prompt, by_model) for prompt in turns[:limit]]


def _example(prompt: Prompt, by_model: Mapping[str, Mapping[Prompt, ResponseRow]]) -> Example:
    rows = {name: rows[prompt] for name, rows in by_model.items() if prompt in rows}
    kind = next((str(row.meta["kind"]) for row in rows.values() if row.meta.get("kind")), "")
    text, rest = split_text(visible(prompt_text(prompt)))
    answers = tuple(
        _answer(name, row, question(prompt)) for name, row in rows.items() if row.responses
    )
    return Example(text, rest, visible(kind), answers)


def _answer(name: str, row: ResponseRow, prompt: str) -> Answer:
    response = row.responses[0]
    text, rest = split_text(visible(response.text))
    return Answer(
        model=name,
        text=text,
        rest=rest,
        refuses=grade_refusal(response.answer, prompt).refuses,
        cut=not response.finished,
    )
