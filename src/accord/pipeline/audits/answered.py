"""Rows of a prompt with an answer that is known: read as prompts, each beside its answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from accord.data.checks import RowError
from accord.data.columns import DialogueText
from accord.data.files import DataRow, read_rows
from accord.data.read import Conversion, describe_unusable
from accord.data.report import Dropped, ReadReport
from accord.errors import DataError
from accord.records import Prompt, PromptOnly
from accord.runs.activity import with_activity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AnsweredRows(Generic[T]):
    """Prompts and their answers [rows], and what happened to the rows that they were read from."""

    prompts: list[PromptOnly]
    answers: list[T]
    report: ReadReport

    def notes(self, name: str) -> tuple[str, ...]:
        """Which rows are left out, and why; nothing where none is."""
        return (f"{name}: {self.report.summary()}",) if self.report.dropped else ()


def read_answered(
    path: str, column: str, parse: Callable[[Any], T], dialogue_text: DialogueText
) -> AnsweredRows[T]:
    """The rows at `path` with their answers, which `parse` reads from `column`.

    `parse` raises RowError for a value that is no answer. Such a row, one whose prompt can't be
    used, and one with the prompt of an earlier row are left out, and the report counts them.
    Raises DataError where no row has the column, or none can be used.
    """
    rows = list(with_activity(read_rows(path), "reading"))
    columns = dict.fromkeys(c for row in rows for c, v in row.values.items() if v is not None)
    if columns and column not in columns:
        raise DataError(
            f"{path} has no column `{column}` with the answers. Its columns: "
            f"{', '.join(columns)}. Add the column, or name the one that holds them."
        )
    if not columns:
        dropped: Dropped = {}
        for row in rows:
            fault = row.error or RowError("no value in any column")
            dropped.setdefault(fault.reason, []).append((row.source, fault.detail))
        raise describe_unusable(path, len(rows), "prompts with answers", dropped)
    conversion = Conversion(
        path, "prompts", tuple(c for c in columns if c != column), dialogue_text
    )
    seen: dict[Prompt, None] = {}
    repeated: Dropped = {}
    prompts: list[PromptOnly] = []
    answers: list[T] = []
    for row in rows:
        with suppress(RowError):  # the conversion counts it
            answer: T | None = None
            error: RowError | None = row.error
            if error is None:
                try:
                    answer = parse(row.values.get(column))
                except RowError as raised:
                    error = raised
            rest = {name: value for name, value in row.values.items() if name != column}
            for record in conversion.convert(DataRow(rest, row.source, error)):
                assert isinstance(record, PromptOnly)
                if record.prompt in seen:
                    repeated.setdefault("the prompt of an earlier row", []).append((row.source, ""))
                    continue
                seen[record.prompt] = None
                prompts.append(record)
                answers.append(cast(T, answer))
    report = conversion.report(path, rows[:1])
    return AnsweredRows(
        prompts,
        answers,
        replace(
            report,
            used=len(prompts),
            records=len(prompts),
            dropped={**report.dropped, **repeated},
        ),
    )
