"""A preference store's rows to learn from, one at a time, for stores larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path

from accord.compare.store.store import PreferenceStore
from accord.compare.store_panels import UNCHECKED, PanelReader
from accord.compare.store_records import CONVERSIONS, READERS, RecordReader
from accord.compare.verdict_filter import EVERYTHING, ReadPlan, plan_read
from accord.data.kinds import Kind
from accord.data.report import Dropped, ReadReport, count_dropped
from accord.data.values import printable
from accord.errors import DataError
from accord.records import Comparison, Demonstration, PromptOnly, Ranking, Rating, Record, Source
from accord.settings.verdicts import VerdictFilter


class StoreStream:
    """The rows of a store as records of `kind`: iterate over `usable`, then ask for the `report`.

    All is read from the store as it is when it is first asked for something.
    """

    def __init__(
        self, path: str | Path, kind: Kind, verdict_filter: VerdictFilter | None = None
    ) -> None:
        self._path, self._kind, self._filter = path, kind, verdict_filter or EVERYTHING
        self._used = self._records = 0
        self._dropped: Dropped = {}
        self._notes: list[str] = []

    @cached_property
    def _store(self) -> PreferenceStore:
        return PreferenceStore.read(self._path)

    @cached_property
    def _plan(self) -> ReadPlan:
        if self._kind not in READERS:
            raise DataError(
                f"{self._store.path} is a preference store, which holds no {self._kind}. Give a "
                "file of rows."
            )
        with _damage_named(self._store):
            # The filter chooses verdicts, and prompts are read of none.
            chosen = self._filter if READERS[self._kind] else EVERYTHING
            return plan_read(self._store, chosen, READERS[self._kind])

    def check(self) -> None:
        """Raise DataError where there is no such store, or it holds no verdicts of that kind that
        the filter reads."""
        if not self._plan.read:
            raise self._nothing_left()

    @property
    def most_rows(self) -> int:
        """The number of rows that there may be, without reading them."""
        return self._plan.read

    def usable(self) -> Iterator[tuple[Record, ...]]:
        """The records of each row. Raises DataError where there is no such store, or it is
        damaged."""
        self._records = self._used = 0
        with _damage_named(self._store):
            for _, records in groupby(self._read(), key=lambda record: record.source):
                row = tuple(records)
                for record in row:
                    _require_texts(record)
                self._records += len(row)
                yield row

    def report(self) -> ReadReport:
        """What happened to the rows, once they were read. Raises DataError where none is used."""
        if not self._records:
            raise self._nothing_left()
        rows = self._used + count_dropped(self._dropped)
        return ReadReport(
            self._store.path, rows, self._used, self._records, self._dropped, self._notes
        )

    def close(self) -> None:
        """Close the store, if it was opened."""
        if "_store" in self.__dict__:
            self._store.close()

    def _read(self) -> Iterator[Record]:
        plan = self._plan
        if self._kind == "prompts":
            for stored in self._store.prompts():
                self._used += 1
                yield PromptOnly(stored.prompt, Source(self._store.path, stored.id), stored.meta)
            return
        panels = PanelReader(self._store, self._filter, plan)
        reader = RecordReader(panels)
        yield from CONVERSIONS[self._kind](reader)
        self._used, self._dropped = reader.used, panels.dropped
        self._notes = [*plan.note(), *reader.notes()]

    def _nothing_left(self) -> DataError:
        """The error where the store, or what the filter leaves of it, has no such records."""
        plan = self._plan
        reasons = [f"{len(rows):,} {reason}" for reason, rows in self._dropped.items()]
        if plan.verdicts:
            reasons = [*(f"{n:,} {reason}" for reason, n in plan.left_out.items()), *reasons]
        contents = ", ".join(f"{n:,} {what}" for what, n in self._store.counts().items() if n)
        why = f" Left out are {', '.join(reasons)}." if reasons else ""
        remedy = "Give another store, or add verdicts to this one."
        if plan.left_out:
            remedy = "Loosen the `filter`, or give another store."
        elif UNCHECKED in self._dropped:
            remedy = (
                "Check the judge with `accord judge check`, or name it in `unchecked_judges`. A "
                "check in another store counts with `filter.judge_checks`."
            )
        return DataError(
            f"{self._store.path} holds nothing that can be used as {self._kind}: it has "
            f"{contents or 'nothing at all'}.{why} {remedy}"
        )


@contextmanager
def _damage_named(store: PreferenceStore) -> Iterator[None]:
    """Raise DataError for what changed bytes come to in the block."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{store.path} is damaged: what it holds does not belong together "
            f"({type(error).__name__}: {printable(str(error))[:200]}). Give another store."
        ) from error


def _require_texts(record: Record) -> None:
    """Raise TypeError for a response of a store that is no text."""
    texts: tuple[object, ...] = ()
    if isinstance(record, Demonstration | Rating):
        texts = (record.response,)
    elif isinstance(record, Comparison):
        texts = (record.chosen, record.rejected)
    elif isinstance(record, Ranking):
        texts = record.responses
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"the response of {record.source} is {type(text).__name__}")
