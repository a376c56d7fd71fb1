"""A PostgreSQL server of the tests' own, in a temporary folder and on a socket there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

UNSAFE_AND_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def find_program(name: str) -> str | None:
    """A program of PostgreSQL's server; Debian has them outside the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


class PostgreSql:
    """A running server; `create` makes an empty database and returns its URL."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.numbers = count(1)

    def create(self) -> str:
        name = f"test_{next(self.numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://accord@/{name}?host={self.socket}"

    def connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(f"host={self.socket} user=accord dbname={database}", autocommit=True)


@contextmanager
def running_postgresql() -> Iterator[PostgreSql]:
    """A server; skips the test where the server or the driver is not installed."""
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("there is no PostgreSQL server on this machine")
    # The server refuses to run as root; Debian has a user for it. Sockets need a short path.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="accord-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    options = [f"unix_socket_directories={folder}", "listen_addresses=", *UNSAFE_AND_FAST]
    start = [postgres, "-D", str(folder / "data")]
    for option in options:
        start += ["-c", option]
    quiet = {"user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    form = ["--encoding=UTF8", "--locale=C", "--auth=trust", "--username=accord", "--no-sync"]
    try:
        subprocess.run([initdb, "-D", str(folder / "data"), *form], check=True, **quiet)
        process = subprocess.Popen(start, **quiet)
        try:
            yield _wait_for(PostgreSql(folder), process)
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(server: PostgreSql, process: subprocess.Popen[bytes]) -> PostgreSql:
    import psycopg

    for _ in range(300):
        try:
            server.connect("postgres").close()
            return server
        except psycopg.OperationalError:
            assert process.poll() is None, "PostgreSQL does not start"
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")
