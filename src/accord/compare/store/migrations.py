"""Migrations of a preference store from one version to the next.

A released migration never changes: it spells out its tables and does not import `schema`, which
describes the newest ones. To change the tables, append a function to MIGRATIONS and change
`schema`; a test compares the results of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Column, Connection, ForeignKey, Index, Integer, MetaData, String, Table, Text

from accord.compare.store.connection import transaction
from accord.compare.store.items import item_name
from accord.compare.store.queue_migration import add_queues, add_turns
from accord.compare.store.queue_schema import METADATA  # with the tables of both modules
from accord.compare.store.schema import SCHEMA_VERSION
from accord.errors import DataError

Migration = Callable[[Connection], None]
ADVISORY_LOCK = 4_127_550_631  # of accord's migrations: one process at a time creates the tables
LOOKS = 10  # further ones at a file that is malformed, half a second in all
CHUNK = 5000  # verdicts in memory at once
LATEST = sa.select(sa.func.max(SCHEMA_VERSION.c.version))


def is_current(connection: Connection, migrations: Sequence[Migration]) -> bool:
    """Whether the store has the newest version."""
    return sa.inspect(connection).has_table(SCHEMA_VERSION.name) and connection.scalar(
        LATEST
    ) == len(migrations)


def check_is_store(
    connection: Connection, name: str, *, create: bool, migrations: Sequence[Migration]
) -> int | None:
    """The version of the store; None where the database is empty.

    Raises DataError as `migrate` does.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if SCHEMA_VERSION.name not in tables:
        if tables and (connection.dialect.name == "sqlite" or tables & set(METADATA.tables)):
            raise DataError(
                f"{name} is a database, but not a preference store: it has the tables "
                f"{', '.join(sorted(tables))}. Give a store, or the name of a new file."
            )
        if not create:
            raise DataError(f"{name} is an empty database. Give a preference store.")
        return None
    version = connection.scalar(LATEST) or 0
    if version > len(migrations):
        raise DataError(
            f"{name} is a preference store of version {version}, but this accord knows versions "
            f"up to {len(migrations)}. Update accord, or use another store."
        )
    return int(version)


def migrate(
    connection: Connection, name: str, *, create: bool, migrations: Sequence[Migration]
) -> None:
    """Bring the store to the newest version, within the transaction that `connection` is in.

    Raises DataError where the database is something else, where there is no store and `create` is
    False, and where the store was written by a newer accord.
    """
    if connection.dialect.name == "postgresql":  # SQLite has a single writer
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    if check_is_store(connection, name, create=create, migrations=migrations) is None:
        SCHEMA_VERSION.create(connection)
    version = connection.scalar(LATEST) or 0
    for number, step in enumerate(migrations[version:], start=version + 1):
        step(connection)
        applied = datetime.now(UTC).isoformat(timespec="seconds")
        connection.execute(SCHEMA_VERSION.insert().values(version=number, applied=applied))


def _create_tables(connection: Connection) -> None:
    """Version 1: prompts, responses, verdicts and their items."""
    metadata = MetaData()
    Table(
        "prompts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("digest", String(64), nullable=False, unique=True),
        Column("content", sa.JSON, nullable=False),
        Column("meta", sa.JSON, nullable=False),
        Column("created", String(40), nullable=False),
    )
    Table(
        "responses",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
        Column("text", Text, nullable=False),
        Column("model", Text, nullable=False, index=True),
        Column("settings", sa.JSON, nullable=False),
        Column("tokens", Integer),
        Column("logp", sa.Float),
        Column("finished", sa.Boolean, nullable=False),
        Column("created", String(40), nullable=False),
    )
    Table(
        "verdicts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
        Column("kind", String(16), nullable=False),
        Column("annotator", Text, nullable=False),
        Column("round", Integer, nullable=False),
        Column("outcome", String(16)),
        Column("reason", Text),
        Column("seconds", sa.Float),
        Column("created", String(40), nullable=False),
        Index("ix_verdicts_kind_round", "kind", "round"),
    )
    Table(
        "verdict_items",
        metadata,
        Column("verdict_id", ForeignKey("verdicts.id"), primary_key=True),
        Column("slot", Integer, primary_key=True, autoincrement=False),
        Column("response_id", ForeignKey("responses.id"), nullable=False, index=True),
        Column("rank", Integer),
        Column("score", sa.Float),
        Column("shown", Integer),
    )
    metadata.create_all(connection, checkfirst=False)


def _add_annotation(connection: Connection) -> None:
    """Version 2: what annotators say beside the outcome, client's keys, judges and their answers.

    Verdicts of version 1 get their item.
    """
    metadata = MetaData()
    Table("verdicts", metadata, Column("id", Integer, primary_key=True))  # for the references to it
    judges = Table(
        "judges",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("digest", String(64), nullable=False, unique=True),
        Column("model", Text, nullable=False),
        Column("endpoint", Text, nullable=False),
        Column("prompt", String(64), nullable=False),
        Column("rubric", String(64), nullable=False),
        Column("settings", sa.JSON, nullable=False),
        Column("created", String(40), nullable=False),
    )
    checks = Table(
        "judge_checks",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("judge_id", ForeignKey("judges.id"), nullable=False, index=True),
        Column("criterion", Text),
        Column("passed", sa.Boolean, nullable=False),
        Column("report", sa.JSON, nullable=False),
        Column("created", String(40), nullable=False),
    )
    answers = Table(
        "judge_answers",
        metadata,
        Column("verdict_id", ForeignKey("verdicts.id"), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("shown", sa.JSON, nullable=False),
        Column("verdict", Text),
        Column("probability", sa.Float),
        Column("text", Text, nullable=False),
    )
    metadata.create_all(connection, tables=[judges, checks, answers], checkfirst=False)
    connection.exec_driver_sql("ALTER TABLE responses ADD COLUMN key VARCHAR(64)")
    for column in (
        "item VARCHAR(64) NOT NULL DEFAULT ''",
        "criterion TEXT",
        "strength INTEGER",
        "probability FLOAT",
        "comment TEXT",
        "tags JSON",
        "guideline VARCHAR(64)",
        "view VARCHAR(16)",
        "session TEXT",
        "source TEXT",
        "key VARCHAR(200)",
        "supersedes INTEGER REFERENCES verdicts (id)",
        "judge_id INTEGER REFERENCES judges (id)",
    ):
        connection.exec_driver_sql(f"ALTER TABLE verdicts ADD COLUMN {column}")
    _fill_items(connection)
    for index in (
        "UNIQUE INDEX ix_responses_key ON responses (key)",
        "INDEX ix_verdicts_item ON verdicts (item, kind, annotator, criterion)",
        "INDEX ix_verdicts_supersedes ON verdicts (supersedes)",
        "UNIQUE INDEX ix_verdicts_key ON verdicts (key)",
    ):
        connection.exec_driver_sql(f"CREATE {index}")


def _fill_items(connection: Connection) -> None:
    """Write `verdicts.item`, a chunk of verdicts at a time so that memory stays flat."""
    items, update = (
        sa.text(
            "SELECT verdict_id, response_id FROM verdict_items "
            "WHERE verdict_id > :first AND verdict_id <= :last ORDER BY verdict_id"
        ),
        sa.text("UPDATE verdicts SET item = :item WHERE id = :id"),
    )
    last = connection.scalar(sa.text("SELECT max(id) FROM verdicts")) or 0
    for first in range(0, last, CHUNK):
        ids: dict[int, list[int]] = {}
        for verdict, response in connection.execute(items, {"first": first, "last": first + CHUNK}):
            ids.setdefault(verdict, []).append(response)
        if ids:
            rows = [{"id": verdict, "item": item_name(of)} for verdict, of in ids.items()]
            connection.execute(update, rows)


def _add_opened(connection: Connection) -> None:
    """Version 5: what the rendered prompt already wrote of a response; unknown for older ones."""
    connection.exec_driver_sql("ALTER TABLE responses ADD COLUMN opened TEXT NOT NULL DEFAULT ''")


MIGRATIONS: tuple[Migration, ...] = (
    _create_tables,
    _add_annotation,
    add_queues,
    add_turns,
    _add_opened,
)


def has_newest_tables(engine: sa.Engine, name: str, migrations: Sequence[Migration]) -> bool:
    """Whether the store needs no migration.

    SQLite may call a file malformed at the moment at which another process creates or closes it, in
    write-ahead mode: a look a moment later finds it whole. One that is malformed remains so.
    """
    looks = 0
    while True:
        try:
            with transaction(engine, name, writes=False) as connection:
                return is_current(connection, migrations)
        except DataError as error:
            looks += 1
            if looks > LOOKS or "malformed" not in str(error):
                raise
            engine.dispose()
            time.sleep(0.05)
