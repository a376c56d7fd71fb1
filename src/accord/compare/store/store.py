"""The preference store: prompts, responses and verdicts on them, in a database.

It is SQLite in one file unless a URL says otherwise (such as postgresql+psycopg://user@host/name).
Nothing is overwritten or deleted; ties are stored although training can't use them. All SQL of
accord is in this folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from accord.compare.store import queries
from accord.compare.store.connection import (
    database_errors,
    database_url,
    make_engine,
    make_reading_engine,
    sqlite_file,
    transaction,
)
from accord.compare.store.migrations import MIGRATIONS, check_is_store, is_current, migrate
from accord.compare.store.rows import (
    JudgedResponse,
    StoredPrompt,
    StoredResponse,
    StoredVerdict,
    VerdictKind,
)
from accord.compare.store.snapshot import open_unchanged
from accord.compare.store.verdicts import Verdict, make_items
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Prompt,
    Ranking,
    Rating,
    Response,
    Source,
)
from accord.runs import storage_errors

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreferenceStore:
    """An open preference store. Use it in a `with` statement, or call `close`.

    `path` is its file or URL, with a URL's password hidden.
    """

    path: str
    engine: sa.Engine

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> Self:
        """The store at `path`, a file or a database URL, migrated to the newest version.

        Raises DataError where it is no store, has a newer version, or is missing with `create`
        False; StorageError where the database refuses.
        """
        _check_file(path, create=create)
        engine, name = make_engine(path, create=create)
        try:
            with transaction(engine, name, writes=False) as connection:
                current = is_current(connection, MIGRATIONS)
            if not current:
                with transaction(engine, name, writes=True) as connection:
                    migrate(connection, name, create=create, migrations=MIGRATIONS)
        except BaseException:
            engine.dispose()
            raise
        return cls(name, engine)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The present content of the store at `path`, a file or a database URL, to read only: no
        file, nor the database, is changed or created. A file is read into memory, and an old one
        migrated there.

        Raises DataError where it is no store, has another version that can't be read, or is
        missing; StorageError where the database refuses.
        """
        engine, name = make_reading_engine(path)
        in_memory = engine.dialect.name == "sqlite"
        try:
            with transaction(engine, name, writes=in_memory) as connection:
                version = check_is_store(connection, name, create=False, migrations=MIGRATIONS)
                if in_memory:
                    migrate(connection, name, create=False, migrations=MIGRATIONS)
                elif version != len(MIGRATIONS):
                    raise DataError(
                        f"{name} is a preference store of the older version {version}. Open it "
                        f"for writing, which brings it to version {len(MIGRATIONS)}: "
                        f"`accord sample` with `store` does."
                    )
        except BaseException:
            engine.dispose()
            raise
        return cls(name, engine)

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
        return self._write(lambda connection: queries.add_prompts(connection, items))

    def add_responses(self, items: Sequence[Response]) -> list[int]:
        """Add responses, and their prompts where they are new; one new id each, in order."""
        return self._write(lambda connection: queries.add_responses(connection, items))

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> list[int]:
        """Add verdicts of any kind, all or none; one id each, in order.

        Raises DataError where a verdict contradicts itself, names a response that is not in the
        store, or combines responses to different prompts.
        """
        items = [make_items(verdict) for verdict in verdicts]
        return self._write(lambda connection: queries.add_verdicts(connection, verdicts, items))

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
    ) -> list[StoredVerdict]:
        """All verdicts, including ties, in the order of their ids."""
        with self._read_transaction() as connection:
            return queries.select_verdicts(connection, kind, round, annotator)

    def comparisons(
        self, round: int | None = None, annotator: str | None = None
    ) -> list[Comparison]:
        """The pairs with a winner; `counts` also counts those without."""
        verdicts, prompts, responses = self._select_judged("pair", round, annotator)
        return [
            Comparison(
                prompt=prompts[v.prompt_id],
                chosen=responses[_response_with_rank(v, 0)].text,
                rejected=responses[_response_with_rank(v, 1)].text,
                source=self.source(v),
                chosen_finished=responses[_response_with_rank(v, 0)].finished,
                rejected_finished=responses[_response_with_rank(v, 1)].finished,
            )
            for v in verdicts
            if v.outcome in ("a", "b")
        ]

    def rankings(self, round: int | None = None, annotator: str | None = None) -> list[Ranking]:
        """The rankings of K responses."""
        verdicts, prompts, responses = self._select_judged("ranking", round, annotator)
        return [
            Ranking(
                prompt=prompts[v.prompt_id],
                responses=tuple(responses[item.response_id].text for item in v.items),
                ranks=tuple(item.rank or 0 for item in v.items),
                source=self.source(v),
                finished=_finished_or_none(
                    [responses[item.response_id].finished for item in v.items]
                ),
            )
            for v in verdicts
        ]

    def ratings(self, round: int | None = None, annotator: str | None = None) -> list[Rating]:
        """The ratings of single responses."""
        verdicts, prompts, responses = self._select_judged("rating", round, annotator)
        return [
            Rating(
                prompt=prompts[v.prompt_id],
                response=responses[v.items[0].response_id].text,
                score=v.items[0].score or 0.0,
                source=self.source(v),
                finished=responses[v.items[0].response_id].finished,
            )
            for v in verdicts
        ]

    def battles(self, round: int | None = None, annotator: str | None = None) -> list[Battle]:
        """The pairs, ties too, as battles between two models; without pairs of the same model."""
        verdicts, _, responses = self._select_judged("pair", round, annotator)
        matches = [
            (responses[v.items[0].response_id].model, responses[v.items[1].response_id].model, v)
            for v in verdicts
        ]
        return [Battle(a, b, v.outcome) for a, b, v in matches if a != b and v.outcome is not None]

    def counts(self) -> dict[str, int]:
        """The number of prompts, responses, verdicts; pairs, and of these comparisons (with a
        winner), ties and both_bad; rankings; ratings."""
        with self._read_transaction() as connection:
            return queries.count_all(connection)

    def source(self, verdict: StoredVerdict) -> Source:
        """The source of this verdict's record: the store, and the verdict's id."""
        return Source(self.path, verdict.id)

    def _read_transaction(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self.engine, self.path, writes=False)

    def _select_judged(
        self, kind: VerdictKind, round: int | None, annotator: str | None
    ) -> tuple[list[StoredVerdict], dict[int, Prompt], dict[int, JudgedResponse]]:
        with self._read_transaction() as connection:
            return (
                queries.select_verdicts(connection, kind, round, annotator),
                queries.select_judged_prompts(connection, kind),
                queries.select_judged_responses(connection, kind),
            )

    def _write(self, insert: Callable[[sa.Connection], T]) -> T:
        try:
            with transaction(self.engine, self.path, writes=True) as connection:
                return insert(connection)
        except exc.IntegrityError:
            # Another process inserted one of the prompts after it was looked up (not on SQLite,
            # which has a single writer): now the look-up finds it.
            with transaction(self.engine, self.path, writes=True) as connection:
                return insert(connection)


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


def _finished_or_none(finished: Sequence[bool]) -> tuple[bool, ...] | None:
    """`Ranking.finished`: None where all responses ended with EOS."""
    return None if all(finished) else tuple(finished)


def _response_with_rank(verdict: StoredVerdict, rank: int) -> int:
    """The id of the pair's response with this rank."""
    return next(item.response_id for item in verdict.items if item.rank == rank)
