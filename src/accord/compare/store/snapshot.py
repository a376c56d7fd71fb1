"""An SQLite file as it is now, read without changing it or the folder that it is in.

SQLite writes where it is asked to read: it creates and removes side files of a database in
write-ahead mode, and rolls back what a killed writer left. Here it does so on a copy.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

ATTEMPTS = 5  # to read while another process writes


def read_snapshot(path: Path) -> sqlite3.Connection:
    """The database in a private file without a name, of which memory holds some pages. Raises
    sqlite3.Error where the file is no database, or is written to all the time."""
    for attempt in range(ATTEMPTS):
        before = _state(path)
        copy = sqlite3.connect("", check_same_thread=False)  # SQLite removes it when it is closed
        try:
            with open_unchanged(path) as connection:
                connection.backup(copy)
            # Read past a writer's locks: it must not have begun to write meanwhile.
            if before[1] or _state(path) == before:
                return copy
        except sqlite3.Error:
            copy.close()
            if _state(path) == before or attempt == ATTEMPTS - 1:
                raise
        else:
            copy.close()
    raise sqlite3.OperationalError("database is locked: it changes while it is read")


@contextmanager
def open_unchanged(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for reading that creates and changes no file."""
    _, wal, journal, shared_memory = _state(path)
    if not wal and not journal:
        # All is in the file itself; `immutable` looks for no side files, and creates none.
        with closing(_connect(path, "mode=ro&immutable=1")) as connection:
            yield connection
    elif wal and shared_memory:  # a live writer, or what a killed one left: it is read together
        with closing(_connect(path, "mode=ro")) as connection:
            yield connection
    else:
        with tempfile.TemporaryDirectory(prefix="accord-") as folder:
            for suffix in ("", "-wal", "-journal"):
                side = path.with_name(path.name + suffix)
                if side.exists():
                    shutil.copyfile(side, Path(folder, "store.db" + suffix))
            with closing(sqlite3.connect(Path(folder, "store.db"))) as connection:
                yield connection


def _connect(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True)


def _state(path: Path) -> tuple[tuple[int, ...], int, int, bool]:
    """The file's time, size and number; the sizes of its write-ahead log and rollback journal; and
    whether there is the log's shared memory."""
    stat = path.stat()
    sizes = [_size(path.with_name(path.name + suffix)) for suffix in ("-wal", "-journal")]
    shared_memory = os.path.exists(f"{path}-shm")
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino), sizes[0], sizes[1], shared_memory


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
