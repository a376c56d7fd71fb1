"""Files and folders that exist as a whole or not at all, whatever kills the process.

A folder is written under a temporary name beside its path, synced to the disk, and exchanged with
the old folder in one step of the file system. What a killed process left behind is removed by the
next one that writes to the same path.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from accord.errors import StorageError
from accord.runs.json_values import to_json_value
from accord.runs.storage import WRITE_ONLY_ERRNOS, fsync_path, storage_errors

PARTIAL = ".partial-"
"""Part of the name of a file or folder that is still being written."""

_ASIDE = ".aside"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_json_atomic(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes `value` as JSON; a reader sees the old file or the new one, never a part of it.

    NaN and infinities become null (see `to_json_value`). Raises StorageError when the disk fails,
    and leaves nothing behind.
    """
    text = json.dumps(to_json_value(value), ensure_ascii=False, allow_nan=False, indent=indent)
    write_text_atomic(path, text + "\n")


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes UTF-8 text as `write_json_atomic` writes JSON."""
    write_lines_atomic(path, [text])


def write_lines_atomic(path: str | Path, lines: Iterable[str]) -> None:
    """Writes pieces of UTF-8 text, each with its line end, as they come, all or none of them."""
    _write_atomic(Path(path), (line.encode("utf-8") for line in lines))


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Writes bytes as `write_json_atomic` writes JSON."""
    _write_atomic(Path(path), [content])


def _write_atomic(path: Path, pieces: Iterable[bytes]) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in _leftovers(path):
            leftover.unlink(missing_ok=True)
        partial, file = _create_locked_file(path)
        try:
            with file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)  # still locked, so no other writer takes it for a leftover
            fsync_path(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _partial_path(path: Path) -> Path:
    """A new temporary path beside `path`."""
    return path.parent / f".{path.name}{PARTIAL}{secrets.token_hex(4)}"


def _create_locked_file(path: Path) -> tuple[Path, BinaryIO]:
    """Creates a file at a temporary path beside `path`, and locks it; returns both."""
    while True:
        partial = _partial_path(path)
        file = partial.open("xb")
        with suppress(OSError):  # without locks in the file system, nothing is removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # another writer has removed it before it was locked


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end of the block it becomes the folder at `path`.

    An old folder at `path` is replaced in one step and then removed, so that a complete one exists
    at every moment. When the block raises, what it wrote is removed and the old folder stays. When
    the process is killed, the old folder stays too, and the next `atomic_folder` for the same path
    removes the leftovers. Raises StorageError when the disk fails.
    """
    final = Path(path).resolve()  # the target of a link is replaced, not the link
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and not final.is_dir():
            raise StorageError(f"{final} is a file where a folder must be. Move it away.")
        finish_interrupted_write(final)
        partial = _partial_path(final)
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
    try:
        # A live writer holds the lock, and the kernel releases it when the process ends. So the
        # next writer can distinguish a leftover from a live folder, even if process ids repeat.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with storage_errors(final, WRITE_ONLY_ERRNOS):
            yield partial
        with storage_errors(final):
            _fsync_tree(partial)
            _replace(partial, final)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)  # an unfinished folder, or the replaced one


def finish_interrupted_write(path: str | Path) -> None:
    """Removes what killed writers of a folder left, and restores the old folder if none exists.

    Only a process that was killed between two renames, on a file system that can't exchange two
    names in one step, leaves no folder.
    """
    final = Path(path).resolve()
    aside = final.parent / f".{final.name}{_ASIDE}"
    if aside.exists():
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    if not final.parent.is_dir():
        return
    for leftover in _leftovers(final):
        shutil.rmtree(leftover, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Removes a folder, if it exists; a reader sees all of it, or nothing.

    What a killed process had not removed yet is removed by the next call for the same path.
    """
    final = Path(path).resolve()
    finish_interrupted_write(final)
    if not final.is_dir():
        return
    partial = _partial_path(final)
    with storage_errors(final):
        final.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def _leftovers(final: Path) -> Iterator[Path]:
    """What killed writers of `final` left beside it, each locked while the caller removes it."""
    prefix = f".{final.name}{PARTIAL}"
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
    """Moves `partial` to `final`; afterwards `partial` is the old folder, or does not exist."""
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


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names in one step; returns False where the system can't."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if renameat2(*paths, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    return function
