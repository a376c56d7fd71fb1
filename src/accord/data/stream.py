"""Rows read one at a time, as `read_records` reads them, for data sets larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from accord.data.checks import RowError
from accord.data.columns import Cells, DialogueText, Format, detect_format
from accord.data.files import DataRow, read_rows
from accord.data.kinds import Kind
from accord.data.pair_columns import preferred_side
from accord.data.read import NO_COLUMNS, Conversion, describe_unusable
from accord.data.renamed import columns_to_rename, rename_row
from accord.data.report import Dropped, ReadReport
from accord.data.selection import random_rows
from accord.errors import DataError
from accord.records import UNKNOWN, Comparison, Record
from accord.runs.activity import with_activity


@dataclass(frozen=True, slots=True)
class Columns:
    """What all rows at a path hold together: the columns with a value, the number of rows, the
    first row of each file, and which columns are read under other names (`rename_columns`)."""

    path: str
    names: tuple[str, ...]
    rows: int
    firsts: tuple[DataRow, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def detect_format(self) -> Format:
        """The format of the rows. Raises DataError where there is none."""
        if not self.names:
            raise DataError(f"No row of {self.path} has a value in any column. Give other rows.")
        return detect_format(self.names)


def read_columns(
    path: str,
    what: str = "records",
    columns: Mapping[str, str] = NO_COLUMNS,
    *,
    columns_required: bool = True,
) -> Columns:
    """Read all rows at `path` for their columns, to read them as `what`, such as a kind.

    `columns` are read under other names, as by `read_records`. Raises DataError where nothing can
    be read, every row has an error, or a column is absent.
    """
    names: dict[str, None] = {}
    present: dict[str, None] = {}
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
        if row.values.keys() - present.keys():
            present |= dict.fromkeys(row.values)
        if row.values.keys() - names.keys():
            names |= dict.fromkeys(c for c, value in row.values.items() if value is not None)
    if not sound:
        raise describe_unusable(path, rows, what, dropped)
    used = columns_to_rename(present, columns, path, required=columns_required)
    renamed = rename_row(DataRow(dict.fromkeys(names), UNKNOWN), used).values
    return Columns(path, tuple(renamed), rows, tuple(firsts.values()), used)


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
    """The rows at a path as records of `kind`: iterate, then ask for the `report`.

    After `sample` they are a choice of the rows, and the report is of these.
    """

    columns: Columns
    kind: Kind
    dialogue_text: DialogueText = "turns"
    _numbers: Sequence[int] | None = None
    _conversion: Conversion = field(init=False)

    def __iter__(self) -> Iterator[StreamedRow]:
        """Read the rows from the first on. Raises DataError as `read_records`."""
        path = self.columns.path
        self._conversion = conversion = Conversion(
            path, self.kind, self.columns.names, self.dialogue_text
        )
        conversion.require_clear_labels(self._rows())
        for row in self._rows() if self._numbers is None else self._sampled(self._numbers):
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

    @property
    def most_rows(self) -> int:
        """The number of rows that there may be, without reading them."""
        return self.columns.rows if self._numbers is None else len(self._numbers)

    def sample(self, count: int, seed: int) -> str:
        """From now on read `count` of the rows, chosen by the seed before any is read, of which
        some may be of no use. Returns a note for the report."""
        rows = self.columns.rows
        self._numbers = random_rows(rows, count, seed)
        return f"{count:,} of the {rows:,} rows are read: a random choice by seed {seed}"

    def usable(self) -> Iterator[tuple[Record, ...]]:
        """The records of each row that can be used."""
        return (row.records for row in self if row.records)

    def _sampled(self, numbers: Sequence[int]) -> Iterator[DataRow]:
        rows = self._rows()
        for before, number in pairwise([-1, *numbers]):
            yield from islice(rows, number - before - 1, number - before)

    def _rows(self) -> Iterator[DataRow]:
        for row in read_rows(self.columns.path):
            yield rename_row(row, self.columns.renamed)

    def report(self) -> ReadReport:
        """What happened to the rows. Raises DataError where none can be used."""
        return self._conversion.report(self.columns.path, self.columns.firsts)
