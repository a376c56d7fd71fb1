"""A store's verdicts as files of other tools, some in memory at a time."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from accord.compare.exchange.columns import (
    DETAILS,
    Exported,
    NotHeld,
    Row,
    flat,
    kto_rows,
    pair_rows,
    ranking_rows,
    verdict_rows,
)
from accord.compare.store.rows import Selection
from accord.compare.store.store import PreferenceStore
from accord.compare.verdict_filter import EVERYTHING, plan_read
from accord.errors import DataError
from accord.runs.atomic import write_lines_atomic
from accord.settings.verdicts import VerdictFilter

ExportFormat = Literal["pairs", "kto", "rankings", "verdicts", "csv"]
RowMaker = Callable[[Exported], Iterator[Row]]
WHOLE_VERDICTS = ("verdicts", "csv")
OPTIONAL = {"margin": 0, "both_bad": False, "criterion": None, "source": None}
"""Columns that are left out of all rows where each has this value."""


@dataclass(slots=True)
class ExportResult:
    """`rows` rows were written of `exported` of `verdicts` verdicts; `dropped` says why others have
    none, and `lost` how many verdicts have a field that the format has no column for."""

    path: str
    form: str
    verdicts: int = 0
    exported: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """What was written and what the format can't hold, as one paragraph."""
        text = f"{self.verdicts:,} verdicts, {self.exported:,} exported as {self.rows:,} rows."
        if self.dropped:
            listed = ", ".join(f"{n:,} {what}" for what, n in self.dropped.most_common())
            text += f" Without a row in the format {self.form}: {listed}."
        if self.lost:
            listed = ", ".join(f"`{name}` of {n:,}" for name, n in self.lost.most_common())
            text += f" The format {self.form} can't hold {listed}."
        return text


def export_preferences(
    store: str | Path,
    path: str | Path,
    form: str,
    *,
    verdict_filter: VerdictFilter = EVERYTHING,
    desirable_from: float | None = None,
) -> ExportResult:
    """Write the verdicts that count, each as rows of its own, to a new file.

    `form` is `pairs` (TRL's prompt, chosen, rejected), `kto` (prompt, completion, label),
    `rankings` (prompt, responses, ranks), `verdicts` (all that a verdict says, as JSON lines) or
    `csv` (the same as CSV). `desirable_from` is the score from which KTO's label is true.

    Raises DataError where the format is unknown, the file is there, the filter names what the store
    has not, or nothing is left.
    """
    if form not in get_args(ExportFormat):
        raise DataError(f"{form!r} is no format. Give one of {', '.join(get_args(ExportFormat))}.")
    if Path(path).exists():
        raise DataError(f"{path} exists. Give a new file's name, or remove it.")
    _check_ending(path, form)
    make = _row_maker(form, desirable_from)
    with PreferenceStore.read(store) as opened:
        plan = plan_read(opened, verdict_filter, ("pair", "ranking", "rating"))
        if form == "kto" and desirable_from is None:
            _check_scores(opened, plan.selection)
        result, columns = _survey(opened, plan.selection, form, make)
        result.path = str(path)
        if not result.rows:
            raise DataError(f"{opened.path} holds nothing to export. {result.summary()}")
        rows = (
            {name: value for name, value in row.items() if name in columns}
            for _, made in _rows(opened, plan.selection, make)
            for row in (made if isinstance(made, list) else [])
        )
        lines = _csv_lines(rows, list(columns)) if form == "csv" else map(_json_line, rows)
        write_lines_atomic(path, lines)
    return result


def _row_maker(form: str, desirable_from: float | None) -> RowMaker:
    threshold = 0.5 if desirable_from is None else desirable_from
    makers: dict[str, RowMaker] = {
        "pairs": pair_rows,
        "kto": lambda item: kto_rows(item, threshold),
        "rankings": ranking_rows,
        "verdicts": verdict_rows,
        "csv": lambda item: (flat(row, _cell) for row in verdict_rows(item)),
    }
    return makers[form]


def _rows(
    store: PreferenceStore, selection: Selection, make: RowMaker
) -> Iterator[tuple[Exported, list[Row] | NotHeld]]:
    """Each verdict with its rows, or why it has none."""
    for verdicts, judged in store.judged_chunks(selection):
        for verdict in verdicts:
            item = Exported.of(verdict, judged)
            rows: list[Row] | NotHeld
            try:
                rows = list(make(item))
            except NotHeld as reason:
                rows = reason
            yield item, rows


def _survey(
    store: PreferenceStore, selection: Selection, form: str, make: RowMaker
) -> tuple[ExportResult, dict[str, None]]:
    """What will be written, and the columns: the same in each row, as `datasets` needs them."""
    result = ExportResult("", form)
    columns: dict[str, None] = {}
    for item, rows in _rows(store, selection, make):
        result.verdicts += 1
        if isinstance(rows, NotHeld):
            result.dropped[str(rows)] += 1
            continue
        result.exported += 1
        result.rows += len(rows)
        for row in rows:
            columns |= {
                name: None
                for name, value in row.items()
                if (form in WHOLE_VERDICTS and name != "opened")
                or not _is_default(name, value, form)
            }
        result.lost.update(_lost_fields(item, form))
    return result, columns


def _is_default(name: str, value: Any, form: str) -> bool:
    if name == "opened":
        given = json.loads(value) if form == "csv" else value
        return not any(given)  # texts, or one text
    if name == "finished":
        return value is True or (isinstance(value, list) and all(value))
    return name in OPTIONAL and value == OPTIONAL[name]


def _lost_fields(item: Exported, form: str) -> list[str]:
    """The fields that the verdict has and the format has no column for."""
    lost = ["the judge's fingerprint and answers"] if item.verdict.judge is not None else []
    if any(i.shown is not None for i in item.verdict.items) and form not in WHOLE_VERDICTS:
        lost.append("the order shown")
    if form in WHOLE_VERDICTS:
        return lost
    names = [name for name in DETAILS if not (form == "pairs" and name == "strength")]
    return lost + [name for name in names if getattr(item.verdict, name) not in (None, ())]


def _check_scores(store: PreferenceStore, selection: Selection) -> None:
    """Raise DataError where scores are on another scale than 0 to 1."""
    for verdict in store.iterate_verdicts(selection):
        score = verdict.items[0].score
        if score is not None and not 0 <= score <= 1:
            raise DataError(
                f"Verdict {verdict.id} of {store.path} has the score {score:g}, so it can't be "
                "known from which score a response is desirable. Give --desirable-from."
            )


def _check_ending(path: str | Path, form: str) -> None:
    ending = ".csv" if form == "csv" else ".jsonl"
    if Path(path).suffix != ending:
        raise DataError(f"The format {form} is written to a file ending in {ending}, not {path}.")


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(row)
    yield buffer.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
