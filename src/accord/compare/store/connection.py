"""Connections to a preference store: SQLite in a file, or any database by URL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from accord.compare.store.snapshot import read_snapshot
from accord.data.files import describe_missing_path, expand_path, file_mode
from accord.data.lines import require_file
from accord.errors import DataError, StorageError
from accord.runs.storage import storage_errors

BUSY_SECONDS = 60.0
CONCURRENT_STATES = {"40001", "40P01"}  # SQL's serialization failure, PostgreSQL's deadlock
STORE_ENDINGS = {".db", ".sqlite", ".sqlite3"}


def is_store(path: str | Path) -> bool:
    """Whether `path` names a preference store: a database file or a database URL."""
    text = str(path)
    return "://" in text or Path(text).suffix.lower() in STORE_ENDINGS


def make_engine(path: str | Path, *, create: bool) -> tuple[sa.Engine, str]:
    """An engine for a file or URL, and the name to show for it (a URL's password hidden).

    Raises DataError where the URL or its driver can't be used, or where the file is not there and
    must not be created.
    """
    url, shown = database_url(path)
    file = sqlite_file(url)
    if file is not None:
        _check_exists(file, create=create)
        with storage_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
    engine = _create_engine(url, shown)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, shown


def make_reading_engine(path: str | Path) -> tuple[sa.Engine, str]:
    """An engine and the name to show as `make_engine` returns them, which changes nothing: for a
    file, on a copy of its present content; for another database, in transactions that only read,
    and see what there was when they began.

    Raises DataError where the file is missing or no database, StorageError where it can't be read.
    """
    url, shown = database_url(path)
    file = sqlite_file(url)
    if file is None:
        engine = _create_engine(url, shown)
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(
                postgresql_readonly=True, isolation_level="REPEATABLE READ"
            )
        return engine, shown
    _check_exists(file, create=False)
    with database_errors(shown):
        copy = _copy(file, shown)
    engine = sa.create_engine(
        "sqlite://", creator=lambda: copy, poolclass=sa.StaticPool, json_serializer=_to_json
    )
    sa.event.listen(engine, "connect", _begin_explicitly)
    return engine, shown


def _copy(file: Path, shown: str) -> sqlite3.Connection:
    """A snapshot of an SQLite file. Raises StorageError where there is no room for it."""
    try:
        return read_snapshot(file)
    except sqlite3.Error as error:
        if "full" not in str(error):
            raise
        raise StorageError(
            f"There is no room for a temporary copy of {shown} ({file.stat().st_size:,} bytes) in "
            f"the folder for temporary files. Free space there, or name another folder in the "
            f"environment variable SQLITE_TMPDIR."
        ) from error


def store_bytes(path: str | Path) -> int | None:
    """Bytes of a store's file with its write-ahead log, or of its PostgreSQL database; None where
    there is no file, and for other databases. Raises StorageError where the database refuses."""
    file = sqlite_file(database_url(path)[0])
    if file is not None:
        files = [file, file.with_name(f"{file.name}-wal")]
        return sum(f.stat().st_size for f in files if f.is_file()) if file.is_file() else None
    engine, name = make_reading_engine(path)
    try:
        if engine.dialect.name != "postgresql":
            return None
        with transaction(engine, name, writes=False) as connection:
            size = sa.func.pg_database_size(sa.func.current_database())
            return connection.scalar(sa.select(size))
    finally:
        engine.dispose()


def sqlite_file(url: sa.URL) -> Path | None:
    """The file of an SQLite database; None for one in memory or with options, and for others."""
    is_file = url.get_backend_name() == "sqlite" and not url.query
    return Path(url.database) if is_file and url.database not in (None, "", ":memory:") else None


def database_url(path: str | Path) -> tuple[sa.URL, str]:
    text = str(path)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(expand_path(text))), text
    try:
        url = sa.make_url(text)
    except exc.ArgumentError as error:
        raise _url_error(text, error) from error
    return url, url.render_as_string(hide_password=True)


def _create_engine(url: sa.URL, shown: str) -> sa.Engine:
    try:
        return sa.create_engine(url, json_serializer=_to_json)
    except (exc.ArgumentError, ModuleNotFoundError) as error:
        raise _url_error(shown, error) from error


def _url_error(text: str, error: Exception) -> DataError:
    scheme = text.split("://")[0]
    return DataError(
        f"The store {scheme}://… can't be opened: {error}. Give a file ending in .db or a "
        "URL such as postgresql+psycopg://user@host/name, and install its driver (for PostgreSQL "
        "`pip install 'accord[postgresql]'`)."
    )


def _check_exists(file: Path, *, create: bool) -> None:
    if file_mode(file) is not None:
        require_file(file)
    elif not create:
        raise DataError(describe_missing_path(file))


_to_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    _begin_explicitly(connection, _record)
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    connection.execute("PRAGMA foreign_keys = ON")
    _write_ahead(connection)


def _begin_explicitly(connection: Any, _record: Any) -> None:
    # The driver begins a transaction only at the first change, so that two processes that read
    # before they write lock each other out. `_begin_sqlite` begins transactions instead.
    connection.isolation_level = None


def _write_ahead(connection: Any) -> None:
    """Turn on write-ahead logging, so that readers are not blocked while another process writes.

    SQLite itself does not wait here for a process that is writing, such as one that has just
    created the file.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class ConcurrentWriteError(Exception):
    """The database ended a transaction because of another one; it can be tried again."""


@contextmanager
def transaction(engine: sa.Engine, name: str, *, writes: bool) -> Iterator[sa.Connection]:
    """One transaction on the store `name`: all of it or nothing.

    Raises DataError where the file is no database or a value can't be stored, StorageError where
    the database refuses (it is locked, full, read-only or can't be reached).
    """
    with database_errors(name), engine.execution_options(writes=writes).begin() as connection:
        yield connection


@contextmanager
def within(connection: sa.Connection, name: str) -> Iterator[sa.Connection]:
    """Part of the transaction that `connection` is in, with the errors of `transaction`."""
    with database_errors(name):
        yield connection


@contextmanager
def database_errors(name: str) -> Iterator[None]:
    """Turn what the database `name` refuses in the block into the errors of `transaction`."""
    try:
        yield
    except exc.IntegrityError:
        raise
    except (exc.DBAPIError, sqlite3.Error) as error:
        message = str(error.orig if isinstance(error, exc.DBAPIError) else error)
        if getattr(getattr(error, "orig", None), "sqlstate", None) in CONCURRENT_STATES:
            raise ConcurrentWriteError(message) from error
        if "not a database" in message or "malformed" in message:
            raise DataError(
                f"{name} is not a preference store: {message}. Give a store, or a new file's name."
            ) from error
        remedy = (
            f"Another process has been writing for more than {BUSY_SECONDS:.0f} seconds; wait "
            "for it to end."
            if "locked" in message
            else "Check that it exists, has free space and may be written to."
        )
        raise StorageError(f"The store {name} failed: {message}. {remedy}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:  # what damaged bytes come to
        raise DataError(
            f"{name} is damaged, or not a preference store: {error}. Give another store."
        ) from error
    except exc.StatementError as error:
        raise DataError(
            f"A value can't be stored in {name}: {error.orig}. "
            "Meta and settings must be what JSON can hold."
        ) from error
