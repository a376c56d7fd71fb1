"""The preference store: prompts, responses and verdicts on them, in a database.

It is SQLite in one file unless a URL says otherwise (such as postgresql+psycopg://user@host/name).
Nothing is overwritten or deleted: a changed mind is a new verdict, and the latest counts. Ties,
skips and undecided pairs are stored although training can't use them. All SQL of accord is in this
folder.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc

from accord.compare.store import inserts, queries, votes
from accord.compare.store.connection import (
    ConcurrentWriteError,
    database_errors,
    database_url,
    make_engine,
    make_reading_engine,
    sqlite_file,
    transaction,
    within,
)
from accord.compare.store.convert import Judged
from accord.compare.store.fingerprint import JudgeAnswer, JudgeCheck, JudgeFingerprint
from accord.compare.store.items import make_items
from accord.compare.store.migrations import MIGRATIONS, check_is_store, has_newest_tables, migrate
from accord.compare.store.rows import (
    Facet,
    Selection,
    StoredPrompt,
    StoredResponse,
    StoredVerdict,
    VerdictKind,
)
from accord.compare.store.snapshot import open_unchanged
from accord.compare.store.verdicts import Verdict
from accord.errors import DataError, StorageError
from accord.records import (
    Battle,
    Comparison,
    Outcome,
    Prompt,
    Ranking,
    Rating,
    Response,
    Source,
)
from accord.runs import storage_errors

T = TypeVar("T")

WRITES = 20  # attempts where other processes insert the same rows at the same time
EVERYTHING = Selection()
PREFERENCES = ("a", "b", "tie", "both_bad")  # outcomes of a pair that count as a battle


@dataclass(frozen=True, slots=True)
class PreferenceStore:
    """An open preference store. Use it in a `with` statement, or call `close`.

    `path` is its file or URL, with a URL's password hidden. `snapshot` is the one transaction of a
    store that is only read.
    """

    path: str
    engine: sa.Engine
    snapshot: sa.Connection | None = None

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> Self:
        """The store at `path`, a file or a database URL, migrated to the newest version.

        Raises DataError where it is no store, has a newer version, or is missing with `create`
        False; StorageError where the database refuses.
        """
        _check_file(path, create=create)
        engine, name = make_engine(path, create=create)
        try:
            if not has_newest_tables(engine, name, MIGRATIONS):
                with transaction(engine, name, writes=True) as connection:
                    migrate(connection, name, create=create, migrations=MIGRATIONS)
        except BaseException:
            engine.dispose()
            raise
        return cls(name, engine)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The present content of the store at `path`, a file or a database URL, to read only,
        whatever others write meanwhile: no file, nor the database, is changed or created. A file
        is copied into a temporary one, and an old one migrated there.

        Raises DataError where it is no store, has another version that can't be read, or is
        missing; StorageError where the database refuses.
        """
        engine, name = make_reading_engine(path)
        is_copy = engine.dialect.name == "sqlite"
        connection: sa.Connection | None = None
        try:
            with database_errors(name):
                connection = engine.connect()
                version = check_is_store(connection, name, create=False, migrations=MIGRATIONS)
                if is_copy:
                    migrate(connection, name, create=False, migrations=MIGRATIONS)
                elif version != len(MIGRATIONS):
                    raise DataError(
                        f"{name} is a preference store of the older version {version}. Open it "
                        f"for writing, which brings it to version {len(MIGRATIONS)}: "
                        f"`accord sample` with `store` does."
                    )
        except BaseException:
            if connection is not None:
                connection.close()
            engine.dispose()
            raise
        return cls(name, engine, connection)

    def copy_to(self, path: Path) -> None:
        """Write what `read` has read from a file into a new file. Raises StorageError."""
        with storage_errors(path), closing(sqlite3.connect(path)) as target:
            connection = self.engine.raw_connection()
            try:
                connection.driver_connection.backup(target)  # type: ignore[union-attr]
            finally:
                connection.close()

    def close(self) -> None:
        """Close the connections; SQLite deletes its side files with the last one."""
        if self.snapshot is not None:
            self.snapshot.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_prompts(self, items: Sequence[tuple[Prompt, Mapping[str, Any]]]) -> list[int]:
        """Add prompts with their meta; one id each. A prompt that is stored keeps its meta."""
        return self._write(lambda connection: inserts.add_prompts(connection, items))

    def add_responses(
        self, items: Sequence[Response], keys: Sequence[str | None] | None = None
    ) -> list[int]:
        """Add responses, and their prompts where they are new; one id each, in order.

        `keys`, if given, has a unique key or None for each: a response whose key the store has is
        not added again, and its id is the first one's.
        """
        return self._write(lambda connection: inserts.add_responses(connection, items, keys))

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> list[int]:
        """Add verdicts of any kind, all or none; one id each, in order.

        A verdict whose `key` the store has is not added again, whichever process added it: its id
        is the first one's. Raises DataError where a verdict contradicts itself, names a response
        that is not in the store, combines responses to different prompts, has the key of another
        verdict, or replaces none of the same annotator's.
        """
        items = [make_items(verdict) for verdict in verdicts]
        return self._write(lambda connection: votes.add_verdicts(connection, verdicts, items))

    def add_judge_check(self, check: JudgeCheck) -> int:
        """Add the result of measuring a judge against people; its id."""
        return self._write(lambda connection: inserts.add_judge_check(connection, check))

    def prompts(self) -> list[StoredPrompt]:
        """All prompts, in the order in which they were added."""
        with self._read_transaction() as connection:
            return queries.select_prompts(connection)

    def responses(
        self, model: str | None = None, prompt_id: int | None = None
    ) -> list[StoredResponse]:
        """All responses, or those of one model or to one prompt, in the order of their ids."""
        with self._read_transaction() as connection:
            return queries.select_responses(connection, model, prompt_id)

    def verdicts(
        self,
        kind: VerdictKind | None = None,
        round: int | None = None,
        annotator: str | None = None,
        *,
        history: bool = False,
    ) -> list[StoredVerdict]:
        """The verdicts that count, including ties and skips, in the order of their ids.

        Of one annotator's verdicts on the same responses and criterion that is the latest;
        `history` returns all.
        """
        return list(self.iterate_verdicts(_selection(kind, round, annotator, history=history)))

    def iterate_verdicts(self, selection: Selection = EVERYTHING) -> Iterator[StoredVerdict]:
        """The selected verdicts in the order of their ids, a few in memory at a time."""
        with self._read_transaction() as connection:
            yield from queries.iterate_verdicts(connection, selection)

    def judged_chunks(self, selection: Selection) -> Iterator[tuple[list[StoredVerdict], Judged]]:
        """The selected verdicts in the order of their ids, some at a time, with their prompts and
        responses."""
        with self._read_transaction() as connection:
            verdicts = queries.iterate_verdicts(connection, selection)
            while chunk := list(itertools.islice(verdicts, queries.CHUNK)):
                yield chunk, Judged(self.path, *queries.select_judged(connection, chunk))

    def facets(self) -> list[Facet]:
        """The number of verdicts that count for each kind, source, round, annotator, criterion and
        judge."""
        with self._read_transaction() as connection:
            return queries.select_facets(connection)

    def judge_answers(self, verdict_ids: Sequence[int]) -> dict[int, tuple[JudgeAnswer, ...]]:
        """The raw answers that verdicts of judges were read from, by the verdict's id."""
        with self._read_transaction() as connection:
            return queries.select_answers(connection, verdict_ids)

    def judges(self) -> dict[str, JudgeFingerprint]:
        """The fingerprints of the judges that the store knows, by digest."""
        with self._read_transaction() as connection:
            return queries.select_judges(connection)

    def judge_checks(self, digest: str | None = None) -> list[JudgeCheck]:
        """The checks of judges, or of the judge with this digest, the latest last."""
        with self._read_transaction() as connection:
            return queries.select_judge_checks(connection, digest)

    def comparisons(
        self, round: int | None = None, annotator: str | None = None
    ) -> list[Comparison]:
        """The pairs with a winner; `counts` also counts those without."""
        judged = self._judged_verdicts("pair", round, annotator)
        return [texts.comparison(v) for v, texts in judged if v.outcome in ("a", "b")]

    def rankings(self, round: int | None = None, annotator: str | None = None) -> list[Ranking]:
        """The rankings of K responses."""
        judged = self._judged_verdicts("ranking", round, annotator)
        return [texts.ranking(v) for v, texts in judged if v.outcome is None]

    def ratings(self, round: int | None = None, annotator: str | None = None) -> list[Rating]:
        """The ratings of single responses."""
        judged = self._judged_verdicts("rating", round, annotator)
        return [texts.rating(v) for v, texts in judged if v.outcome is None]

    def battles(self, round: int | None = None, annotator: str | None = None) -> list[Battle]:
        """The pairs, ties too, as battles between two models; without pairs of the same model, and
        without those skipped, flagged or undecided."""
        battles = []
        for verdict, texts in self._judged_verdicts("pair", round, annotator):
            a, b = (texts.responses[item.response_id].model for item in verdict.items)
            if a != b and verdict.outcome in PREFERENCES:
                outcome = cast(Outcome, verdict.outcome)
                battles.append(Battle(a, b, outcome, str(verdict.prompt_id)))
        return battles

    def counts(self) -> dict[str, int]:
        """The number of prompts, responses and verdicts. Of the verdicts that count: pairs, and of
        these comparisons (with a winner), ties and both_bad; rankings; ratings; those undecided,
        skipped and flagged. The others are superseded."""
        with self._read_transaction() as connection:
            return queries.count_all(connection)

    def source(self, verdict: StoredVerdict) -> Source:
        """The source of this verdict's record: the store, and the verdict's id."""
        return Source(self.path, verdict.id)

    def _read_transaction(self) -> AbstractContextManager[sa.Connection]:
        if self.snapshot is not None:
            return within(self.snapshot, self.path)
        return transaction(self.engine, self.path, writes=False)

    def _judged_verdicts(
        self, kind: VerdictKind, round: int | None, annotator: str | None
    ) -> Iterator[tuple[StoredVerdict, Judged]]:
        for verdicts, judged in self.judged_chunks(_selection(kind, round, annotator)):
            yield from ((verdict, judged) for verdict in verdicts)

    def _write(self, insert: Callable[[sa.Connection], T]) -> T:
        for _ in range(WRITES):
            try:
                with transaction(self.engine, self.path, writes=True) as connection:
                    return insert(connection)
            except (exc.IntegrityError, ConcurrentWriteError) as error:
                # Another process inserted a prompt or a key after it was looked up (not on SQLite,
                # which has a single writer): now the look-up finds it.
                last = error
        raise StorageError(
            f"The store {self.path} refused a change {WRITES} times: {last.__cause__ or last}. "
            "Other processes add the same rows; try again when they have ended."
        ) from last


def _selection(
    kind: VerdictKind | None, round: int | None, annotator: str | None, *, history: bool = False
) -> Selection:
    return Selection(
        kind,
        None if round is None else (round,),
        None if annotator is None else (annotator,),
        history=history,
    )


def _check_file(path: str | Path, *, create: bool) -> None:
    """Raise DataError where a file is no store of this accord: before it is opened for writing,
    which changes it."""
    url, name = database_url(path)
    file = sqlite_file(url)
    if file is None or not file.is_file() or not file.stat().st_size:
        return
    with database_errors(name), open_unchanged(file) as readable:
        engine = sa.create_engine("sqlite://", creator=lambda: readable, poolclass=sa.StaticPool)
        with engine.connect() as connection:
            check_is_store(connection, name, create=create, migrations=MIGRATIONS)
