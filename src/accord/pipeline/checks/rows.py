"""Rows as the checks see them, whatever their format: a prompt with responses, best first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from accord.data.checks import RowError
from accord.data.stream import RecordStream, StreamedRow
from accord.records import (
    Comparison,
    Demonstration,
    Prompt,
    Ranking,
    Rating,
    Record,
    Source,
    Text,
    answer_text,
)

SCORE_COLUMNS = tuple(
    (form.format("chosen"), form.format("rejected"))
    for word in ("score", "rating", "reward")
    for form in (f"{word}_{{}}", f"{{}}_{word}", f"{{}}-{word}", f"{word}-{{}}")
)
"""Columns that hold the score of each response of a pair, under the names of published sets."""
SPLIT_COLUMN = "split"


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """One record of a row, or a row that can't be used (`error`).

    `number` counts the rows from 0. `ranks` are those of the `responses`, 0 best; None where the
    row compares nothing. `score` is a single response's. `scores` are the pair's, chosen first.
    """

    number: int
    source: Source
    prompt: Prompt = ""
    responses: tuple[str, ...] = ()
    ranks: tuple[int, ...] | None = None
    score: float | None = None
    scores: tuple[float, float] | None = None
    finished: tuple[bool, ...] = ()
    first_wins: bool | None = None
    split: str | None = None
    error: RowError | None = None

    def best_and_worst(self) -> tuple[int, int] | None:
        """The indices of the first best and the first worst response."""
        if self.ranks is None:
            return None
        return self.ranks.index(min(self.ranks)), self.ranks.index(max(self.ranks))

    def learned(self) -> tuple[int, ...]:
        """The indices of the responses that are learned: the best, or the only one unless it is
        marked as bad."""
        if self.ranks is not None:
            return (self.ranks.index(min(self.ranks)),)
        return () if self.score == 0 else tuple(range(len(self.responses)))


def checked_rows(stream: RecordStream) -> Iterator[CheckedRow]:
    """The records of a stream of rows, and its rows that can't be used."""
    for number, row in enumerate(stream):
        if row.error is not None:
            yield CheckedRow(number, row.row.source, error=row.error)
        for record in row.records:
            yield make_row(number, record, row)


def make_row(number: int, record: Record, row: StreamedRow | None = None) -> CheckedRow:
    """A record as the checks see it."""
    values: Mapping[str, Any] = row.row.values if row else {}
    split = values.get(SPLIT_COLUMN)
    answers = _answers(record)
    return CheckedRow(
        number,
        record.source,
        record.text if isinstance(record, Text) else record.prompt,
        answers,
        _ranks(record),
        record.score if isinstance(record, Rating) else None,
        read_scores(values) if isinstance(record, Comparison) else None,
        _finished(record, len(answers)),
        _first_wins(record, row),
        split if isinstance(split, str) else None,
    )


def _answers(record: Record) -> tuple[str, ...]:
    if isinstance(record, Comparison):
        return (
            answer_text(record.chosen, record.chosen_fields),
            answer_text(record.rejected, record.rejected_fields),
        )
    if isinstance(record, Ranking):
        fields = record.fields or ("",) * len(record.responses)
        return tuple(answer_text(*pair) for pair in zip(record.responses, fields, strict=True))
    if isinstance(record, Demonstration | Rating):
        return (answer_text(record.response, record.fields),)
    return ()


def _ranks(record: Record) -> tuple[int, ...] | None:
    if isinstance(record, Comparison):
        return (0, 1)
    return record.ranks if isinstance(record, Ranking) else None


def _finished(record: Record, count: int) -> tuple[bool, ...]:
    if isinstance(record, Comparison):
        return record.chosen_finished, record.rejected_finished
    if isinstance(record, Ranking):
        return record.finished or (True,) * count
    if isinstance(record, Demonstration | Rating):
        return (record.finished,)
    return ()


def _first_wins(record: Record, row: StreamedRow | None) -> bool | None:
    """Whether the first of two responses is preferred, where the row has an order of them."""
    if isinstance(record, Ranking) and record.ranks[0] != record.ranks[1]:
        return record.ranks[0] < record.ranks[1]
    return row.first_wins if row else None


def read_scores(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """The scores of the chosen and the rejected response, where a row has both as numbers."""
    for chosen, rejected in SCORE_COLUMNS:
        if chosen not in values or rejected not in values:
            continue
        try:
            scores = float(values[chosen]), float(values[rejected])
        except (TypeError, ValueError, OverflowError):
            return None
        return scores if all(map(math.isfinite, scores)) else None
    return None
