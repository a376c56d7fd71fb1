"""Rows read one at a time, as `read_records` reads them, for data sets larger than memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from accord.data.checks import RowError
from accord.data.columns import Cells, Format, detect_format, match_columns
from accord.data.files import DataRow, read_rows
from accord.data.kinds import Kind
from accord.data.pair_columns import preferred_side, require_clear_labels
from accord.data.read import choose_formats, convert_row, describe_unusable, has_all_columns
from accord.data.read_notes import note_paths, note_unread_columns, note_with_count
from accord.data.report import Dropped, ReadReport, count_dropped
from accord.errors import DataError
from accord.records import Record
from accord.runs.activity import with_activity


@dataclass(frozen=True, slots=True)
class Columns:
    """What all rows at a path hold together: the columns with a value, the number of rows, and the
    first row of each file."""

    path: str
    names: tuple[str, ...]
    rows: int
    firsts: tuple[DataRow, ...]

    def detect_format(self) -> Format:
        """The format of the rows. Raises DataError where there is none."""
        if not self.names:
            raise DataError(f"{self.path} has no row that can be used, or rows without columns.")
        return detect_format(self.names)


def read_columns(path: str) -> Columns:
    """Read all rows at `path` for their columns. Raises DataError where nothing can be read."""
    names: dict[str, None] = {}
    firsts: dict[str, DataRow] = {}
    rows = 0
    for row in with_activity(read_rows(path), "reading columns"):
        rows += 1
        firsts.setdefault(row.source.path, row)
        if row.values.keys() - names.keys():
            names |= dict.fromkeys(c for c, value in row.values.items() if value is not None)
    return Columns(path, tuple(names), rows, tuple(firsts.values()))


@dataclass(frozen=True, slots=True)
class StreamedRow:
    """A row with its records, or with the error for which it can't be used.

    `first_wins` says of a pair with a label whether the response that was shown first is preferred;
    None where the row does not say which was.
    """

    row: DataRow
    records: tuple[Record, ...] = ()
    error: RowError | None = None
    first_wins: bool | None = None


@dataclass(slots=True)
class RecordStream:
    """The rows at a path as records of `kind`: iterate, then ask for the `report`."""

    columns: Columns
    kind: Kind
    used: int = 0
    records: int = 0
    dropped: Dropped = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[StreamedRow]:
        """Read the rows from the first on. Raises DataError as `read_records`."""
        path, names = self.columns.path, match_columns(self.columns.names)
        self.used, self.records, self.dropped, self.notes = 0, 0, {}, Counter()
        forms = choose_formats(path, self.kind, list(self.columns.names))
        labelled = forms[0] == "labelled pair"
        if labelled:
            labels = (row.values.get(names["preferred"]) for row in read_rows(path))
            require_clear_labels(labels, names, path)
        for row in read_rows(path):
            try:
                if row.error is not None:
                    raise row.error
                form = next((f for f in forms if has_all_columns(row, f, names)), forms[0])
                records = tuple(convert_row(row, form, self.kind, names, self.notes, "turns"))
                side = (
                    preferred_side(Cells(row.values, names, row.source))
                    if form == "labelled pair"
                    else None
                )
            except RowError as error:
                self.dropped.setdefault(error.reason, []).append((row.source, error.detail))
                yield StreamedRow(row, error=error)
                continue
            self.used += 1
            self.records += len(records)
            yield StreamedRow(row, records, first_wins=None if side is None else side == "a")

    def report(self) -> ReadReport:
        """What happened to the rows. Raises DataError where none can be used."""
        columns = self.columns
        if not self.records:
            raise describe_unusable(columns.path, columns.rows, self.kind, self.dropped)
        forms = choose_formats(columns.path, self.kind, list(columns.names))
        names = match_columns(columns.names)
        notes = [note_with_count(note, n, self.used) for note, n in self.notes.items()]
        notes += note_paths(columns.path, columns.firsts)
        notes += note_unread_columns(columns.names, forms, names, self.kind, self.notes)
        rows = self.used + count_dropped(self.dropped)
        return ReadReport(columns.path, rows, self.used, self.records, self.dropped, notes)


def stream_records(path: str | Path, kind: Kind) -> RecordStream:
    """The records of `kind` at `path`, in memory one row at a time.

    Raises DataError where nothing can be read; on iteration where the columns don't fit `kind`.
    """
    columns = read_columns(str(path))
    if not columns.names:
        dropped: Dropped = {}
        for row in read_rows(path):
            error = row.error or RowError("no columns")
            dropped.setdefault(error.reason, []).append((row.source, error.detail))
        raise describe_unusable(str(path), columns.rows, kind, dropped)
    return RecordStream(columns, kind)
