"""Files and folders that are there as a whole or not at all, whatever kills the process.

A folder is written under another name beside its place, brought to the disk, and exchanged with
what was there in one step of the file system. What a killed process left behind is removed by the
next one that writes to the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from accord.errors import StorageError
from accord.runs.json_values import json_ready
from accord.runs.storage import ONLY_WRITING, fsync_path, storage_errors

_PARTIAL = ".partial-"
_ASIDE = ".aside"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_json_atomic(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes `value` as JSON; a reader sees the old file or the new one, never a part.

    NaN and infinities become null (see `json_ready`). Raises StorageError when the disk fails,
    and leaves nothing behind.
    """
    text = json.dumps(json_ready(value), ensure_ascii=False, allow_nan=False, indent=indent)
    write_text_atomic(path, text + "\n")


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes UTF-8 text the same way."""
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for rest in _abandoned(path):
            rest.unlink(missing_ok=True)
        partial, file = _own_file(path)
        try:
            with file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)  # still locked: no other writer takes it for abandoned
            fsync_path(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _own_file(path: Path) -> tuple[Path, TextIO]:
    """A new locked file beside `path`, and its name."""
    while True:
        partial = path.parent / f".{path.name}{_PARTIAL}{secrets.token_hex(4)}"
        file = partial.open("x", encoding="utf-8")
        with suppress(OSError):  # a file system without locks removes nothing either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # another writer has removed it before it was locked


@contextmanager
def atomic_folder(final: str | Path) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end of the block it becomes `final`.

    A folder that was at `final` is replaced in one step and then removed, so that a complete one
    is there at every moment. When the block raises, what it wrote is removed and `final` stays as
    it was. When the process is killed, `final` stays too, and the next `atomic_folder` for it
    removes the rest. Raises StorageError when the disk fails.
    """
    final = Path(final).resolve()  # where a link stands, its target is replaced, not the link
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and not final.is_dir():
            raise StorageError(f"{final} is a file where a folder must be. Move it away.")
        recover_folder(final)
        partial = final.parent / f".{final.name}{_PARTIAL}{secrets.token_hex(4)}"
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
    try:
        # A live writer holds the lock, and the kernel drops it with the process: so the next
        # writer can tell a dead folder from a live one, even where process ids repeat.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with storage_errors(final, ONLY_WRITING):
            yield partial
        with storage_errors(final):
            _fsync_tree(partial)
            _replace(partial, final)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)  # unfinished, or the old folder exchanged


def recover_folder(final: str | Path) -> None:
    """Removes what killed writers of `final` left, and puts an old folder back if none is there.

    The second happens only where the file system can't exchange two names in one step and the
    process died between two renames.
    """
    final = Path(final).resolve()
    aside = final.parent / f".{final.name}{_ASIDE}"
    if aside.exists():
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    if not final.parent.is_dir():
        return
    for rest in _abandoned(final):
        shutil.rmtree(rest, ignore_errors=True)


def remove_folder(final: str | Path) -> None:
    """Removes a folder, if it is there: it is there whole, or not at all.

    What a killed process had not removed yet is removed by the next call for the same place.
    """
    final = Path(final).resolve()
    recover_folder(final)
    if not final.is_dir():
        return
    partial = final.parent / f".{final.name}{_PARTIAL}{secrets.token_hex(4)}"
    with storage_errors(final):
        final.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def _abandoned(final: Path) -> Iterator[Path]:
    """What killed writers of `final` left beside it, each locked while the caller removes it."""
    prefix = f".{final.name}{_PARTIAL}"
    for entry in [e for e in final.parent.iterdir() if e.name.startswith(prefix)]:
        try:
            descriptor = os.open(entry, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield entry
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _fsync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            fsync_path(Path(root, name))
        fsync_path(root)


def _replace(partial: Path, final: Path) -> None:
    """Puts `partial` at `final`; afterwards `partial` holds the old folder, or is gone."""
    if not final.exists():
        partial.rename(final)
    elif not _exchange(partial, final):
        aside = final.parent / f".{final.name}{_ASIDE}"
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
        try:
            partial.rename(final)
        except BaseException:
            aside.rename(final)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    fsync_path(final.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False where the system can't."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    return function
