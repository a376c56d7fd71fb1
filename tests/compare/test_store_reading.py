"""A store that is only read is not changed, nor is its folder, whatever state it is in."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from accord.compare.dataset import load_records
from accord.compare.store import migrations, snapshot
from accord.compare.store import store as store_module
from accord.compare.store.migrations import MIGRATIONS
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError, StorageError
from tests.compare.store_verdicts import add, answers, fails

KILLED_WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
connection.execute("PRAGMA cache_size = 1")
if sys.argv[2] == "delete":
    connection.execute("BEGIN")
    connection.execute("UPDATE responses SET text = 'half written'")
    connection.execute("CREATE TABLE large (x)")
    connection.execute("INSERT INTO large VALUES (zeroblob(1000000))")
else:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE responses SET text = 'in the log' WHERE text = 'five'")
os._exit(0)
"""


def kill_a_writer(path: Path, mode: str) -> None:
    """Leave the file as a process leaves it that was killed in the middle."""
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path), mode], check=True)


@pytest.fixture
def filled(path: Path) -> Path:
    """A store with one pair, closed."""
    with PreferenceStore.open(path) as store:
        a, b = answers(store, "four", "five")
        add(store, PairVerdict(a, b, "a", annotator="ann"))
    return path


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def texts(path: Path | str) -> list[str]:
    with PreferenceStore.read(path) as store:
        return [r.response.text for r in store.responses()]


def test_reading_changes_neither_the_file_nor_its_folder(filled: Path) -> None:
    before = state(filled.parent)
    assert [c.chosen for c in load_records(str(filled), "comparisons")[0]] == ["four"]
    assert texts(f"sqlite:///{filled}") == ["four", "five"]
    assert state(filled.parent) == before


def test_a_folder_and_file_that_may_not_be_written(filled: Path) -> None:
    filled.chmod(0o400)
    filled.parent.chmod(0o500)
    try:
        assert texts(filled) == ["four", "five"]
    finally:
        filled.parent.chmod(0o700)


def test_a_database_of_something_else_is_not_changed_by_looking(tmp_path: Path) -> None:
    path = tmp_path / "songs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = state(tmp_path)
    message = "not a preference store: it has the tables songs"
    assert message in fails(lambda: PreferenceStore.read(path))
    assert message in fails(lambda: PreferenceStore.open(path))
    with pytest.raises(DataError, match="songs"):
        load_records(str(path), "comparisons")
    assert state(tmp_path) == before


def test_what_is_no_store_or_missing_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database at all" * 100)
    (tmp_path / "empty.db").write_text("")
    before = state(tmp_path)
    for name, message in (
        ("text.db", "is not a preference store: file is not a database"),
        ("empty.db", "is an empty database"),
        ("missing.db", "does not exist"),
        ("folder/missing.db", "does not exist"),
    ):
        assert message in fails(lambda name=name: PreferenceStore.read(tmp_path / name))
        url = f"sqlite:///{tmp_path / name}"
        assert message in fails(lambda url=url: PreferenceStore.read(url))
    assert state(tmp_path) == before


def test_rows_in_the_log_of_a_live_writer_are_read(filled: Path) -> None:
    with PreferenceStore.open(filled) as writer:
        answers(writer, "six")
        assert filled.with_name("store.db-wal").stat().st_size
        assert texts(filled) == ["four", "five", "six"]
        answers(writer, "seven")  # the writer is not disturbed
    assert texts(filled) == ["four", "five", "six", "seven"]


@pytest.mark.parametrize("shared_memory", [True, False])
def test_the_log_of_a_killed_writer_is_read(filled: Path, shared_memory: bool) -> None:
    kill_a_writer(filled, "wal")
    if not shared_memory:
        filled.with_name("store.db-shm").unlink()
    before = {n: b for n, (b, _) in state(filled.parent).items() if not n.endswith("-shm")}
    names = sorted(state(filled.parent))
    assert texts(filled) == ["four", "in the log"]
    after = state(filled.parent)
    assert sorted(after) == names
    assert {n: b for n, (b, _) in after.items() if not n.endswith("-shm")} == before


def test_what_a_killed_writer_had_not_committed_is_not_read(filled: Path) -> None:
    kill_a_writer(filled, "delete")
    assert filled.with_name("store.db-journal").stat().st_size
    before = state(filled.parent)
    assert texts(filled) == ["four", "five"]
    assert state(filled.parent) == before


def test_a_file_that_always_changes_is_an_error(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(100))
    monkeypatch.setattr(snapshot, "_state", lambda path: ((next(times),), 0, 0, False))
    assert "it changes while it is read" in fails(
        lambda: PreferenceStore.read(filled), StorageError
    )


def test_reading_while_another_process_writes(filled: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with PreferenceStore.open(filled) as store:
                answers(store, f"answer {number}")
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = [len(texts(filled)) for _ in range(30)]
    finally:
        stop.set()
        writer.join()
    assert counts == sorted(counts)
    assert counts[0] >= 2


def test_an_old_store_is_read_in_its_new_form_and_stays_old(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_language(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE prompts ADD COLUMN language TEXT DEFAULT 'en'")

    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, add_language))
    before = state(filled.parent)
    with PreferenceStore.read(filled) as store, store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT language FROM prompts").scalar() == "en"
        assert connection.scalar(migrations.LATEST) == len(MIGRATIONS) + 1
    assert state(filled.parent) == before


def test_a_copy_has_the_newest_rows_and_the_original_stays(filled: Path, tmp_path: Path) -> None:
    kill_a_writer(filled, "wal")
    size = filled.stat().st_size, filled.with_name("store.db-wal").stat().st_size
    with PreferenceStore.read(filled) as store:
        store.copy_to(tmp_path / "copy.db")
    assert (filled.stat().st_size, filled.with_name("store.db-wal").stat().st_size) == size
    with PreferenceStore.open(tmp_path / "copy.db") as copy:
        assert [r.response.text for r in copy.responses()] == ["four", "in the log"]
        answers(copy, "six")
    assert json.dumps(texts(tmp_path / "copy.db")) == '["four", "in the log", "six"]'
