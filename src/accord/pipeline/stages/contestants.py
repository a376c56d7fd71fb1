"""Which responses of an arena's contestants meet, and why others do not."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from accord.compare.texts import shorten
from accord.data.write import ResponseRow
from accord.errors import DataError, SettingsError
from accord.records import Prompt, Response, prompt_text
from accord.settings.stages import Contestant

log = logging.getLogger(__name__)

RowsByName = Mapping[str, Sequence[ResponseRow]]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with one response of each contestant. `repeat` counts, from 0, the questions with
    the same prompt."""

    prompt: Prompt
    repeat: int
    responses: Mapping[str, Response]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """A contestant's rows: those that take part, and the others by the reason why they do not.

    `differ_in_blanks` and `differ_in_system` are those of `not_answered_by_all` whose prompt
    another contestant answered with other blanks, or with another system message.
    `further_responses` are those of the rows that take part, which have one response each.
    """

    rows: int
    used: int
    without_response: int
    not_answered_by_all: int
    differ_in_blanks: int
    differ_in_system: int
    further_responses: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def check_names(contestants: Sequence[Contestant], anchor: str | None = None) -> None:
    """Raise SettingsError where two contestants have one name, since one would replace the other,
    or where none has the anchor's."""
    names = [contestant.name for contestant in contestants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two contestants are called {twice!r}. Give each a different `name`.")
    if anchor is not None and anchor not in names:
        raise SettingsError(
            f"`anchor` is {anchor!r}, and the contestants are {', '.join(names)}. Name one of "
            f"them, or leave it out."
        )


def pair_rows(
    rows_by_name: RowsByName,
) -> tuple[list[Question], dict[str, RowCounts]]:
    """The questions that all contestants answered, in the order of the first one's rows, and each
    contestant's counts, which are logged.

    A prompt that occurs several times is as many questions, and the answers meet in their order.
    Raises DataError where the contestants answered it a different number of times, and where they
    have no prompt in common.
    """
    answers = {name: _by_prompt(rows) for name, rows in rows_by_name.items()}
    first = next(iter(answers.values()))
    shared = [p for p in first if all(p in by_prompt for by_prompt in answers.values())]
    questions = []
    for prompt in shared:
        numbers = {name: len(by_prompt[prompt]) for name, by_prompt in answers.items()}
        if len(set(numbers.values())) > 1:
            raise DataError(_describe_unequal(prompt, numbers))
        questions += [
            Question(
                prompt,
                repeat,
                {name: rows[prompt][repeat].responses[0] for name, rows in answers.items()},
            )
            for repeat in range(len(first[prompt]))
        ]
    counts = {name: _count(name, rows_by_name[name], answers, set(shared)) for name in rows_by_name}
    if not questions:
        raise DataError(
            "The contestants have answered no prompt in common. Sample all of them on one data "
            f"set. {' '.join(_describe(name, count) for name, count in counts.items())}"
        )
    _log_counts(counts)
    return questions, counts


def _by_prompt(rows: Sequence[ResponseRow]) -> dict[Prompt, list[ResponseRow]]:
    """The rows with a response, by their prompts."""
    by_prompt: dict[Prompt, list[ResponseRow]] = defaultdict(list)
    for row in rows:
        if row.responses:
            by_prompt[row.prompt].append(row)
    return dict(by_prompt)


def _count(
    name: str,
    rows: Sequence[ResponseRow],
    answers: Mapping[str, Mapping[Prompt, Sequence[ResponseRow]]],
    shared: set[Prompt],
) -> RowCounts:
    others = {p for other, by_prompt in answers.items() if other != name for p in by_prompt}
    without_blanks = {_without_blanks(prompt) for prompt in others}
    without_system = {_without_system(prompt) for prompt in others}
    answered = [row for row in rows if row.responses]
    used = [row for row in answered if row.prompt in shared]
    left_out = [row.prompt for row in answered if row.prompt not in shared]
    unknown = [prompt for prompt in left_out if prompt not in others]
    in_blanks = [_without_blanks(prompt) in without_blanks for prompt in unknown]
    in_system = [_without_system(prompt) in without_system for prompt in unknown]
    return RowCounts(
        rows=len(rows),
        used=len(used),
        without_response=len(rows) - len(answered),
        not_answered_by_all=len(left_out),
        differ_in_blanks=sum(in_blanks),
        differ_in_system=sum(s and not b for s, b in zip(in_system, in_blanks, strict=True)),
        further_responses=sum(len(row.responses) - 1 for row in used),
    )


def _without_blanks(prompt: Prompt) -> str:
    return "".join(prompt_text(prompt).split()).casefold()


def _without_system(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return _without_blanks(prompt)
    turns = tuple(turn for turn in prompt if turn.role not in ("system", "developer"))
    return _without_blanks(turns)


def _describe_unequal(prompt: Prompt, numbers: Mapping[str, int]) -> str:
    counted = ", ".join(f"{name} {number}" for name, number in numbers.items())
    return (
        f"The prompt {shorten(repr(prompt_text(prompt)))} was not answered as often by each "
        f"contestant ({counted} times), so it is not known which answers meet. Sample all of them "
        f"on one data set, or leave the repeated rows out."
    )


def _log_counts(counts: Mapping[str, RowCounts]) -> None:
    if all(count.used == count.rows for count in counts.values()):
        number = next(iter(counts.values())).used
        log.info("All %d rows of each contestant take part.", number)
    for name, count in counts.items():
        if count.used < count.rows:
            log.warning("%s", _describe(name, count))
        if count.further_responses:
            log.warning(
                "%s: %d further responses of these rows do not take part, one counts for each row.",
                name,
                count.further_responses,
            )


def _describe(name: str, count: RowCounts) -> str:
    reasons = {
        "have no response": count.without_response,
        "have a prompt that not all contestants answered": count.not_answered_by_all,
    }
    text = f"{name}: {count.used} of {count.rows} rows take part"
    text += "".join(f"; {number} {reason}" for reason, number in reasons.items() if number)
    if count.differ_in_blanks:
        text += f" ({count.differ_in_blanks} of them with other blanks or capitals)"
    if count.differ_in_system:
        text += f" ({count.differ_in_system} of them after another system message)"
    return f"{text}."
