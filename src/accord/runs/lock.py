"""One run at a time in a folder: a lock file that names the run which writes there.

The operating system's lock on the file ends with its process, however that ends, so a killed run
leaves only the file, and the next run takes it over. What the file says matters where that lock
decides nothing: on another machine, and on file systems without locks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accord.errors import LockedError, StorageError
from accord.runs.manifest import command_line
from accord.runs.storage import storage_errors

LOCK_FILE = ".accord-lock"
"""Prefix of the names of lock files; ignored by digests."""

_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_SECONDS_TO_NAME_ITSELF = 2.0  # that a run takes from the lock to what it writes about itself
_open_locks: set[int] = set()


@contextmanager
def lock_folder(folder: str | Path, purpose: str = "") -> Iterator[None]:
    """Hold the lock of a folder, which is created, for the time of the block.

    Locks of different purposes do not exclude each other. Raises LockedError, naming the other run,
    where another run has the lock, and StorageError where the folder can't be written.
    """
    path = _lock_path(folder, purpose)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # the block may change the working directory
    descriptor = _acquire(path)
    _open_locks.add(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is locked, so that no other run has locked it
        _open_locks.discard(descriptor)
        os.close(descriptor)


def remove_stale_lock(folder: str | Path, purpose: str = "") -> None:
    """Remove the lock file that a killed run has left in a folder; a running one's stays."""
    if _lock_path(folder, purpose).is_file():
        with suppress(LockedError, StorageError), lock_folder(folder, purpose):
            pass  # taken over, and removed with its release


def _lock_path(folder: str | Path, purpose: str) -> Path:
    return Path(folder) / f"{LOCK_FILE}{purpose and '-'}{purpose}"


def _acquire(path: Path) -> int:
    """Open and lock the file, and write into it who this is; returns its descriptor."""
    while True:
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            system_lock = _lock(descriptor, path)
            if not os.fstat(descriptor).st_nlink:  # another run has ended, and removed it
                os.close(descriptor)
                continue
            other = _read(descriptor)
            if other and not _has_ended(other, system_lock=system_lock):
                raise _locked_error(path, other)
            with storage_errors(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_about_this_run()).encode(), 0)
                os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _lock(descriptor: int, path: Path) -> bool:
    """Lock the file; False where the file system has no locks. Raises LockedError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _LOCKED:
            return False
        deadline = time.monotonic() + _SECONDS_TO_NAME_ITSELF
        while not (other := _read(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.02)
        raise _locked_error(path, other) from None
    return True


def _has_ended(other: Mapping[str, Any], *, system_lock: bool) -> bool:
    """Whether the run that wrote a lock file has ended, as far as this machine can know."""
    this = _about_this_run()
    if other.get("boot") != this["boot"]:
        return other.get("host") == this["host"]  # this machine has started again since
    if system_lock:
        return True  # the kernel has released the lock
    return _start_time(other.get("pid")) != other.get("process_start")


def _locked_error(path: Path, other: Mapping[str, Any]) -> LockedError:
    host, pid = other.get("host", "an unknown machine"), other.get("pid", "unknown")
    who = f"process {pid} on {host}, since {other.get('since', 'a moment ago')}"
    command = f" (`{other['command']}`)" if other.get("command") else ""
    if other.get("pid") == os.getpid() and other.get("boot") == _boot():
        remedy = "It is this very process: close the earlier run, or name another output_dir."
    elif other.get("boot") in (None, _boot()):
        remedy = "Wait for it to end, or name another output_dir."
    else:
        remedy = (
            f"Whether it still runs can't be seen from here: if it has ended, remove {path}; else "
            f"wait, or name another output_dir."
        )
    return LockedError(f"Another run writes to {path.parent}: {who}{command}. {remedy}")


def _about_this_run() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line()[:500],
        "boot": _boot(),
        "process_start": _start_time(os.getpid()),
    }


def _read(descriptor: int) -> dict[str, Any]:
    """What the file says; empty where it says nothing yet, or is damaged."""
    with suppress(OSError, ValueError):
        about = json.loads(os.pread(descriptor, 10_000, 0))
        if isinstance(about, dict):
            return about
    return {}


def _boot() -> str | None:
    """An identifier of this start of this machine's kernel, which containers share; None where the
    system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


def _start_time(pid: Any) -> str | None:
    """When a process started, in the kernel's clock ticks; None where there is none of that pid.
    It distinguishes a process from a later one with the same pid."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    return None


def _close_in_child() -> None:
    """A forked process closes its copies, which would prolong the lock beyond its parent's end."""
    for descriptor in _open_locks:
        with suppress(OSError):
            os.close(descriptor)
    _open_locks.clear()


os.register_at_fork(after_in_child=_close_in_child)
