"""What the checks read: rows of a file or a store, held-out prompts, and texts to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from accord.compare.dataset import load_records
from accord.compare.store.connection import is_store
from accord.data.checks import RowError
from accord.data.kinds import Kind
from accord.data.report import ReadReport
from accord.data.stream import Columns, RecordStream, read_columns
from accord.measure.rows.overlap import evaluation_texts
from accord.measure.rows.texts import question
from accord.pipeline.checks.collect import HeldOut, same_prompt
from accord.pipeline.checks.evaluation_sets import read_texts
from accord.pipeline.checks.findings import DataFinding
from accord.pipeline.checks.result import Excerpt
from accord.pipeline.checks.rows import CheckedRow, checked_rows, make_row
from accord.pipeline.checks.single import prompt_of

_SHOWN = 5000  # characters of a text on a page


def open_rows(
    path: str, kind: Kind, columns: Columns | None
) -> tuple[Iterator[CheckedRow], Callable[[], ReadReport]]:
    """The rows at `path`, one at a time, and what says, once they have been read, what happened to
    them. A preference store has no `columns`, and is read as a whole."""
    if columns is not None:
        stream = RecordStream(columns, kind)
        return checked_rows(stream), stream.report
    records, report = load_records(path, kind)

    def rows() -> Iterator[CheckedRow]:
        for number, record in enumerate(records):
            yield make_row(number, record)
        errors = ((s, RowError(r, d)) for r, rows in report.dropped.items() for s, d in rows)
        for number, (source, error) in enumerate(errors, start=len(records)):
            yield CheckedRow(number, source, error=error)

    return rows(), lambda: report


def read_held_out(splits: Sequence[str], evaluation_sets: Sequence[str]) -> HeldOut:
    """The prompts of other splits, and the texts of evaluation sets. Raises DataError."""
    held_out = HeldOut()
    for path in splits:
        for row in _prompts(path):
            if row.error is None:
                held_out.splits.setdefault(same_prompt(prompt_of(row)), row.source)
    texts: list[str] = []
    for path in evaluation_sets:
        published = read_texts(path)
        if published is not None:
            texts += [text for text, _ in published]
            held_out.sources += [source for _, source in published]
            continue
        for row in _prompts(path):
            if row.error is None:
                texts.append(question(row.prompt))
                held_out.sources.append(row.source)
    if texts:
        held_out.evaluation = evaluation_texts(texts)
    return held_out


def _prompts(path: str) -> Iterator[CheckedRow]:
    columns = None if is_store(path) else read_columns(path, "prompts")
    rows, report = open_rows(path, "prompts", columns)
    yield from rows
    report()  # raises DataError where no row can be used


def read_excerpts(
    rows: Iterator[CheckedRow], findings: Sequence[DataFinding], shown: int
) -> dict[int, Excerpt]:
    """The texts of the first rows of each finding, by the row's number."""
    numbers = {r.number for f in findings if f.rows is not None for r in f.rows.first(shown)}
    texts: dict[int, Excerpt] = {}
    for row in rows:
        if row.number in numbers and row.number not in texts and row.error is None:
            texts[row.number] = _excerpt(row)
        if not numbers or row.number > max(numbers):
            break
    return texts


def _excerpt(row: CheckedRow) -> Excerpt:
    if row.ranks is None:
        names = ["response"] * len(row.responses)
    elif len(row.responses) == 2:
        names = ["rejected" if rank else "chosen" for rank in row.ranks]
    else:
        names = [f"rank {rank}" for rank in row.ranks]
    answers = list(zip(names, row.responses, strict=True))
    texts = [("prompt" if answers else "text", prompt_of(row)), *answers]
    return [(name, _shorten(text)) for name, text in texts]


def _shorten(text: str) -> str:
    more = len(text) - _SHOWN
    return f"{text[:_SHOWN]}… ({more:,} further characters)" if more > 0 else text
