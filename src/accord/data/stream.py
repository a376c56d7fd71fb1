"""Rows read one at a time, as `read_records` reads them, for data sets larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from accord.data.checks import RowError
from accord.data.columns import Cells, Format, detect_format
from accord.data.files import DataRow, read_rows
from accord.data.kinds import Kind
from accord.data.pair_columns import preferred_side
from accord.data.read import Conversion, describe_unusable
from accord.data.report import Dropped, ReadReport
from accord.errors import DataError
from accord.records import Comparison, Record
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
            raise DataError(f"No row of {self.path} has a value in any column. Give other rows.")
        return detect_format(self.names)


def read_columns(path: str, what: str = "records") -> Columns:
    """Read all rows at `path` for their columns, to read them as `what`, such as a kind.

    Raises DataError where nothing can be read, or every row has an error.
    """
    names: dict[str, None] = {}
    firsts: dict[str, DataRow] = {}
    rows = sound = 0
    dropped: Dropped = {}
    for row in with_activity(read_rows(path), "reading columns"):
        rows += 1
        firsts.setdefault(row.source.path, row)
        if row.error is None:
            sound += 1
        elif not sound:
            dropped.setdefault(row.error.reason, []).append((row.source, row.error.detail))
        if row.values.keys() - names.keys():
            names |= dict.fromkeys(c for c, value in row.values.items() if value is not None)
    if not sound:
        raise describe_unusable(path, rows, what, dropped)
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
    _conversion: Conversion = field(init=False)

    def __iter__(self) -> Iterator[StreamedRow]:
        """Read the rows from the first on. Raises DataError as `read_records`."""
        path = self.columns.path
        self._conversion = conversion = Conversion(path, self.kind, self.columns.names)
        conversion.require_clear_labels(read_rows(path))
        for row in read_rows(path):
            try:
                records = conversion.convert(row)
            except RowError as error:
                yield StreamedRow(row, error=error)
                continue
            is_labelled = conversion.form_of(row) == "labelled pair"
            is_pair = any(isinstance(record, Comparison) for record in records)
            first_wins = None
            if is_labelled and is_pair:
                side = preferred_side(Cells(row.values, conversion.names, row.source))
                first_wins = side == "a"
            yield StreamedRow(row, records, first_wins=first_wins)

    def report(self) -> ReadReport:
        """What happened to the rows. Raises DataError where none can be used."""
        return self._conversion.report(self.columns.path, self.columns.firsts)
