"""The store's database: files and URLs, migrations, and several processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from accord.compare.store import connection as store_connection
from accord.compare.store import migrations
from accord.compare.store import store as store_module
from accord.compare.store.migrations import MIGRATIONS, migrate
from accord.compare.store.schema import METADATA
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError, StorageError
from accord.records import Source
from tests.compare.store_verdicts import add, answers, fails


def test_reopening(path: Path) -> None:
    with PreferenceStore.open(path) as store:
        a, b = answers(store, "four", "five")
        add(store, PairVerdict(a, b, "a", annotator="ann"))
    assert [p.name for p in path.parent.iterdir()] == ["store.db"]  # no side files are left
    with PreferenceStore.open(path, create=False) as store:
        assert len(store.comparisons()) == 1
        assert answers(store, "six") == [3]
        assert store.counts()["prompts"] == 1


def test_sqlite_settings(store: PreferenceStore) -> None:
    with store.engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("foreign_keys", "journal_mode", "busy_timeout")
        }
    assert values == {"foreign_keys": 1, "journal_mode": "wal", "busy_timeout": 60_000}


def test_missing_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("")
    assert fails(lambda: PreferenceStore.open(tmp_path / "stor.db", create=False)) == (
        f"{tmp_path / 'stor.db'} does not exist. Did you mean {tmp_path / 'store.db'}?"
    )
    assert not (tmp_path / "stor.db").exists()


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("something else entirely" * 100)
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is not a preference store: file is not a database. "
        "Give a store, or a new file's name."
    )
    assert path.read_text() == "something else entirely" * 100


def test_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is a database, but not a preference store: it has the tables songs. "
        "Give a store, or the name of a new file."
    )


def test_empty_file_is_a_store_only_where_one_may_be_created(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"")
    assert fails(lambda: PreferenceStore.open(path, create=False)) == (
        f"{path} is an empty database. Give a preference store."
    )
    with PreferenceStore.open(path) as store:
        assert store.counts()["prompts"] == 0


def test_store_of_a_newer_accord(path: Path) -> None:
    PreferenceStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'later')")
    connection.close()
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is a preference store of version 99, but this accord knows versions up to "
        f"{len(MIGRATIONS)}. Update accord, or use another store."
    )


def test_urls_that_cannot_be_used() -> None:
    assert fails(lambda: PreferenceStore.open("nosuch://user:secret@host/name")).startswith(
        "The store nosuch://… can't be opened: "
    )
    message = fails(lambda: PreferenceStore.open("postgresql+nosuch://user:secret@host/name"))
    assert "secret" not in message
    assert message.endswith(
        "Give a file ending in .db or a URL such as postgresql+psycopg://user@host/name, "
        "and install its driver (for PostgreSQL `pip install 'accord[postgresql]'`)."
    )


def test_sqlite_by_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with PreferenceStore.open(url) as store:
        a, b = answers(store, "four", "five")
        add(store, PairVerdict(a, b, "a", annotator="ann"))
        assert store.comparisons()[0].source == Source(url, 1)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fails(
        lambda: PreferenceStore.open(tmp_path / "file" / "store.db"), StorageError
    ).startswith(f"Could not write {tmp_path / 'file'}: a part of the path is a file, not a folder")


def test_locked_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PreferenceStore.open(path).close()
    monkeypatch.setattr(store_connection, "BUSY_SECONDS", 0.01)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with PreferenceStore.open(path) as store:
        assert store.prompts() == []  # reading is not blocked
        assert fails(lambda: store.add_prompts([("p", {})]), StorageError) == (
            f"The store {path} failed: database is locked. Another process has been writing for "
            "more than 0 seconds; wait for it to end."
        )
    writer.close()


def describe_tables(engine: sa.Engine) -> dict[str, Any]:
    """Tables, columns, types, keys and indexes as the database reports them."""
    inspector = sa.inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(
                (f["constrained_columns"], f["referred_table"])
                for f in inspector.get_foreign_keys(table)
            ),
            sorted((i["name"] or "", i["column_names"]) for i in inspector.get_indexes(table)),
            inspector.get_unique_constraints(table),
        )
        for table in inspector.get_table_names()
    }


def test_migrations_lead_to_the_schema(store: PreferenceStore) -> None:
    fresh = sa.create_engine("sqlite://")
    METADATA.create_all(fresh)
    assert describe_tables(store.engine) == describe_tables(fresh)


def test_an_old_store_is_migrated_to_the_newest_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PreferenceStore.open(path) as store:
        answers(store, "four")

    def add_language(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE prompts ADD COLUMN language TEXT DEFAULT 'en'")

    newer = (*MIGRATIONS, add_language)
    monkeypatch.setattr(store_module, "MIGRATIONS", newer)
    for _ in range(2):  # the second time there is nothing left to do
        with (
            PreferenceStore.open(path, create=False) as store,
            store.engine.connect() as connection,
        ):
            languages = connection.exec_driver_sql("SELECT language FROM prompts").scalars().all()
            versions = connection.scalars(sa.select(migrations.SCHEMA_VERSION.c.version)).all()
            assert languages == ["en"]
            assert versions == list(range(1, len(newer) + 1))


def test_a_migration_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE prompts ADD COLUMN language TEXT")
        raise RuntimeError("power cut")

    with PreferenceStore.open(path) as store:
        before = describe_tables(store.engine)

        def upgrade() -> None:
            with store_connection.transaction(store.engine, store.path, writes=True) as connection:
                migrate(connection, store.path, create=False, migrations=(*MIGRATIONS, fail))

        with pytest.raises(RuntimeError):
            upgrade()
        assert describe_tables(store.engine) == before
        assert store.counts()["prompts"] == 0


WRITER = """
import sys
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.records import Response
for i in range(25):
    with PreferenceStore.open(sys.argv[1]) as store:
        pair = [Response(f"prompt {i}", f"{sys.argv[2]} {k}", sys.argv[2]) for k in "ab"]
        a, b = store.add_responses(pair)
        store.add_verdicts([PairVerdict(a, b, "a", annotator=sys.argv[2])])
"""


def test_two_processes_write_at_the_same_time(path: Path) -> None:
    """Both create the store and add the same prompts; nothing is lost and no prompt doubled."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE)
        for name in ("x", "y")
    ]
    errors = [writer.communicate()[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    with PreferenceStore.open(path, create=False) as store:
        counts = store.counts()
        assert (counts["prompts"], counts["responses"], counts["comparisons"]) == (25, 100, 50)
        for name in ("x", "y"):
            pairs = {(c.prompt, c.chosen, c.rejected) for c in store.comparisons(annotator=name)}
            assert pairs == {(f"prompt {i}", f"{name} a", f"{name} b") for i in range(25)}


@pytest.mark.parametrize(("times", "opens"), [(0, True), (2, True), (99, False)])
def test_a_file_that_is_malformed_for_a_moment_is_opened(
    times: int, opens: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLite says now and then of a file that another process creates at that moment."""
    looks: list[int] = []
    is_current = migrations.is_current

    def look(*arguments: Any) -> bool:
        looks.append(1)
        if len(looks) <= times:
            raise sqlite3.DatabaseError("database disk image is malformed")
        return is_current(*arguments)

    monkeypatch.setattr(migrations, "is_current", look)
    if opens:
        PreferenceStore.open(path).close()
        assert len(looks) == times + 1
    else:
        with pytest.raises(DataError, match="is not a preference store: database disk image"):
            PreferenceStore.open(path)
        assert len(looks) == migrations.LOOKS + 1


def test_opening_waits_for_a_process_that_is_writing(path: Path) -> None:
    # SQLite itself does not wait here: the file is not yet in write-ahead mode.
    path.parent.mkdir()
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE other (x)")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO other VALUES (1)")
    ending = threading.Timer(0.3, writer.execute, ("COMMIT",))
    ending.start()
    with sa.create_engine(f"sqlite:///{path}").connect() as waiting:
        store_connection._write_ahead(waiting.connection.dbapi_connection)
        assert not writer.in_transaction
        assert waiting.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    ending.join()
    writer.close()
