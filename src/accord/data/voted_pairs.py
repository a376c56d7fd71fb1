"""Pairs of responses with the votes of people, one or several on each, from rows of files.

Read are rows with a pair of responses and a label, or a label of each annotator (`annotator1`, …),
and every other format of comparisons, whose chosen response then has one vote.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accord.data.checks import RowError, require_response
from accord.data.columns import Cells, match_columns
from accord.data.files import DataRow, read_rows
from accord.data.pair_columns import preferred_side, require_clear_labels
from accord.data.pair_names import find_panel
from accord.data.pairs import parse_sides
from accord.data.read import read_records
from accord.data.report import Dropped, ReadReport, count_dropped, format_reasons
from accord.errors import DataError
from accord.records import UNKNOWN, Comparison, Prompt, Source, answer_text, prompt_text

ONE_ANNOTATOR = "label"
"""The annotator of a file with one label a row."""


@dataclass(frozen=True, slots=True)
class PairVote:
    """One annotator's verdict on a pair: the better response, or a tie."""

    annotator: str
    side: Literal["a", "b", "tie"]


@dataclass(frozen=True, slots=True)
class VotedPair:
    """Two responses to one prompt with people's votes. `models` wrote them, where that is known;
    `finished` is False for a response that was cut at the token limit."""

    prompt: Prompt
    response_a: str
    response_b: str
    votes: tuple[PairVote, ...]
    source: Source = UNKNOWN
    models: tuple[str | None, str | None] = (None, None)
    finished: tuple[bool, bool] = (True, True)
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_voted_pairs(
    path: str | Path, where: Mapping[str, str] | None = None
) -> tuple[list[VotedPair], ReadReport]:
    """The pairs at `path` (see `read_rows`), and what happened to each row.

    `where` selects the rows whose columns have these values. A row that can't be used is left out
    and named in the report. Raises DataError where no row is left, a column of `where` is missing,
    or the labels leave open which response they name.
    """
    rows = _select_rows(list(read_rows(path)), where or {}, str(path))
    columns = dict.fromkeys(c for row in rows for c, v in row.values.items() if v is not None)
    panel, labels = find_panel(columns)
    names = match_columns(columns) | panel
    if not labels and "preferred" not in names:
        return _read_comparisons(path, where)
    for label in labels or [names["preferred"]]:
        values = (row.values.get(label) for row in rows)
        require_clear_labels(values, names | {"preferred": label}, str(path))
    pairs: list[VotedPair] = []
    dropped: Dropped = {}
    notes: Counter[str] = Counter()
    for row in rows:
        try:
            if row.error is not None:
                raise row.error
            pairs.append(_parse_pair(row, names, labels, notes))
        except RowError as error:
            dropped.setdefault(error.reason, []).append((row.source, error.detail))
    if not pairs:
        raise _nothing(str(path), len(rows), dropped)
    report = ReadReport(str(path), len(rows), len(pairs), len(pairs), dropped)
    return pairs, report


def _select_rows(rows: list[DataRow], where: Mapping[str, str], path: str) -> list[DataRow]:
    for column, value in where.items():
        values = {str(row.values[column]) for row in rows if column in row.values}
        if value not in values:
            shown = ", ".join(sorted(values)[:8]) or "nothing: there is no such column"
            raise DataError(
                f"No row of {path} has {column}={value}. `{column}` holds {shown}. Select by one "
                f"of its values."
            )
        rows = [row for row in rows if str(row.values.get(column)) == value]
    return rows


def _parse_pair(
    row: DataRow, names: Mapping[str, str], labels: Sequence[str], notes: Counter[str]
) -> VotedPair:
    cells = Cells(row.values, names, row.source, notes)
    (prompt, first), (second_prompt, second) = parse_sides(cells)
    if prompt != second_prompt:
        raise RowError("the dialogues differ before the last answer")
    texts = [answer_text(side.text, side.fields) for side in (first, second)]
    for text, column in zip(texts, ("response_a", "response_b"), strict=True):
        require_response(text, cells.name(column))
    votes = tuple(_votes(row, names, labels, notes))
    if not votes:
        raise RowError("nobody voted")
    used = set(names.values()) | set(labels)
    meta = {name: value for name, value in row.values.items() if name not in used}
    model_a, model_b = (_model(row.values, suffixes) for suffixes in (("a", "1"), ("b", "2")))
    return VotedPair(prompt, texts[0], texts[1], votes, row.source, (model_a, model_b), meta=meta)


def _votes(
    row: DataRow, names: Mapping[str, str], labels: Sequence[str], notes: Counter[str]
) -> Iterator[PairVote]:
    for label in labels or [names["preferred"]]:
        if labels and row.values.get(label) in (None, ""):
            continue  # this annotator did not judge the row
        cells = Cells(row.values, {**names, "preferred": label}, row.source, notes)
        yield PairVote(label if labels else ONE_ANNOTATOR, preferred_side(cells))


def _model(values: Mapping[str, Any], suffixes: Sequence[str]) -> str | None:
    """The model that wrote a response: the text in `model_a`, `model_1` or `model1`, if any."""
    for name in (f"{stem}{suffix}" for suffix in suffixes for stem in ("model_", "model")):
        if isinstance(values.get(name), str):
            return str(values[name])
    return None


def _read_comparisons(
    path: str | Path, where: Mapping[str, str] | None
) -> tuple[list[VotedPair], ReadReport]:
    if where:
        raise DataError(
            f"{path} holds pairs of a chosen and a rejected response, whose rows can't be selected "
            f"by {', '.join(where)}. Select them into a file of their own."
        )
    records, report = read_records(path, "comparisons")
    return [
        _from_comparison(record) for record in records if isinstance(record, Comparison)
    ], report


def _from_comparison(pair: Comparison) -> VotedPair:
    """The pair with one vote. A digest of the texts decides which response is a: were it always the
    chosen one, people would seem to prefer a side."""
    chosen = (answer_text(pair.chosen, pair.chosen_fields), pair.chosen_finished)
    rejected = (answer_text(pair.rejected, pair.rejected_fields), pair.rejected_finished)
    content = "\0".join((prompt_text(pair.prompt), *sorted((chosen[0], rejected[0]))))
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
    chosen_is_a = (chosen[0] < rejected[0]) == (digest[0] % 2 == 0)
    a, b = (chosen, rejected) if chosen_is_a else (rejected, chosen)
    vote = PairVote(ONE_ANNOTATOR, "a" if chosen_is_a else "b")
    return VotedPair(pair.prompt, a[0], b[0], (vote,), pair.source, finished=(a[1], b[1]))


def _nothing(path: str, rows: int, dropped: Dropped) -> DataError:
    return DataError(
        f"{path} has {rows:,} rows, and in none of its {count_dropped(dropped):,} rows is a pair "
        f"with people's verdict: {'; '.join(format_reasons(dropped))}. Correct the rows, or give "
        f"another file."
    )
