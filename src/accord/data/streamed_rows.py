"""Rows of data sets larger than memory: all of them, at most a number, or a mixture by weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from accord.data.report import ReadReport
from accord.data.selection import Origin, choose_rows, join_reports, mixture_counts
from accord.data.stream import RecordStream
from accord.records import Record
from accord.runs.activity import with_activity


class Stream(Protocol):
    """What rows are read from, as often as they are asked for: `RecordStream`, or a store's."""

    @property
    def most_rows(self) -> int: ...

    def usable(self) -> Iterator[tuple[Record, ...]]: ...

    def report(self) -> ReadReport: ...


class TooFewUsableError(Exception):
    """Of the rows that were chosen before they were read, too few can be used."""


@dataclass(slots=True)
class StreamedRows:
    """The rows of one data set, as `ReadRows` has them in memory.

    A choice among them reads them all once more, to count the rows that can be used; of the
    choice the numbers of its rows are in memory. `report` is known once `records` has ended.
    """

    stream: Stream
    _chosen: list[int] | None = None
    _notes: list[str] = field(default_factory=list)
    _counted: tuple[int, ReadReport] | None = None
    _records: int | None = None
    _fewest: int = 0

    @property
    def size(self) -> int:
        """The number of usable rows, or of those chosen. Raises DataError where there are none."""
        if self._chosen is not None:
            return len(self._chosen)
        if self._counted is None:
            rows = sum(1 for _ in with_activity(self.stream.usable(), "counting rows"))
            self._counted = (rows, self.stream.report())
        return self._counted[0]

    @property
    def most_rows(self) -> int:
        """The number of rows that there may be, without reading them."""
        return self.stream.most_rows if self._chosen is None else len(self._chosen)

    def sample(self, count: int, fewest: int, seed: int, why: str) -> None:
        """Choose rows by the seed, of files without a count of the usable ones: `records` raises
        TooFewUsableError where fewer than `fewest` can be used. The note ends with `why`."""
        if self._chosen is None and isinstance(self.stream, RecordStream):
            self._notes.append(self.stream.sample(count, seed) + why)
            self._fewest = fewest
        else:
            self.limit(count, "anywhere", seed, why)

    def limit(self, count: int | None, origin: Origin, seed: int, why: str = "") -> None:
        """Choose as `limit_rows`, among the rows chosen before; the note ends with `why`."""
        if count is None or self.size <= count:
            return
        numbers, note = choose_rows(self.size, count, origin, seed)
        before = self._chosen
        self._chosen = numbers if before is None else [before[number] for number in numbers]
        self._notes.append(note + why)

    def records(self) -> Iterator[Record]:
        """The records of the rows, read again. Raises DataError as the stream does, also where no
        row can be used."""
        self._records = rows = 0
        chosen = None if self._chosen is None else iter(self._chosen)
        upcoming = None if chosen is None else next(chosen)
        for row in self.stream.usable():
            rows += 1
            if chosen is not None and rows - 1 != upcoming:
                continue
            self._records += len(row)
            yield from row
            if chosen is not None and (upcoming := next(chosen, None)) is None:
                return
        if rows < self._fewest:
            raise TooFewUsableError
        self._counted = (rows, self.stream.report())

    @property
    def chosen_records(self) -> int:
        """The number of records, once `records` has ended."""
        assert self._records is not None
        return self._records

    def report(self) -> ReadReport:
        """What happened to the rows."""
        assert self._counted is not None
        report = self._counted[1]
        return replace(report, notes=[*report.notes, *self._notes])


@dataclass(slots=True)
class StreamedMixture:
    """Several data sets as one, as `mix_rows` mixes those in memory."""

    parts: Sequence[StreamedRows]

    @classmethod
    def of(
        cls, parts: Sequence[StreamedRows], weights: Sequence[float], seed: int
    ) -> StreamedMixture:
        if weights:
            counts = mixture_counts([part.size for part in parts], weights)
            for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
                part.limit(count, "anywhere", seed + number)
        return cls(parts)

    @property
    def most_rows(self) -> int:
        return sum(part.most_rows for part in self.parts)

    def records(self) -> Iterator[Record]:
        for part in self.parts:
            yield from part.records()

    def report(self) -> ReadReport:
        reports = [part.report() for part in self.parts]
        return join_reports(reports, sum(part.chosen_records for part in self.parts))
