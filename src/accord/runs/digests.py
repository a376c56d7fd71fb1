"""Digests of inputs: they show whether an input has changed since a stage ran on it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accord.errors import DataError
from accord.runs.atomic import PARTIAL
from accord.runs.json_values import to_json_value
from accord.runs.lock import LOCK_FILE

SKIPPED_FILES = frozenset({"metrics.jsonl", "manifest.json", "stage.json"})
SKIPPED_FOLDERS = frozenset({"checkpoints", "__pycache__", ".git", ".cache"})
"""What records how and when a folder was written: it does not count as content."""

_LOG_SUFFIXES = ("-wal", "-journal")  # SQLite writes the newest rows of a store beside it


def digest_path(path: str | Path) -> str:
    """sha256 (hex) of a file's content, or of a folder's relative names and contents.

    A folder's `checkpoints/`, `metrics.jsonl`, `manifest.json` and `stage.json` are left out at
    any depth, since they hold times; so are `.git`, `.cache` and unfinished files and folders
    (see `runs.atomic`). File times and permissions do not count. A store's unmerged write-ahead
    log does. Raises DataError when the path does not exist or a file can't be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            names = sorted(_content_files(path))
            with ThreadPoolExecutor(4) as threads:  # hashing releases the interpreter lock
                digests = list(threads.map(lambda name: _digest_file(path / name), names))
            return digest_json(list(zip(names, digests, strict=True)))
        logs = [path.with_name(path.name + suffix) for suffix in _LOG_SUFFIXES]
        logs = [log for log in logs if log.is_file() and log.stat().st_size]
        if not logs:
            return _digest_file(path)
        return digest_json([_digest_file(file) for file in (path, *logs)])
    except FileNotFoundError:
        raise DataError(
            f"{str(path)!r} does not exist. Check the path; the stage that writes it may not have "
            "run yet."
        ) from None
    except OSError as error:
        raise DataError(
            f"{str(error.filename or path)!r} can't be read: {error.strerror}. Check its "
            "permissions."
        ) from None


def digest_json(value: Any) -> str:
    """sha256 (hex) of a value's JSON with sorted keys; equal values have equal digests."""
    text = json.dumps(
        to_json_value(value), sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest_file(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would block
        raise DataError(f"{str(path)!r} is no regular file. Give a file that can be read again.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_files(folder: Path) -> Iterator[str]:
    """Paths of the files that count, relative to `folder`, with forward slashes. Named pipes and
    sockets have no content."""
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_reraise):
        real = os.path.realpath(root)
        if real in visited:  # a link to a parent folder
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and PARTIAL not in f]
        for name in files:
            if name in SKIPPED_FILES or name.startswith(LOCK_FILE) or PARTIAL in name:
                continue
            if not stat.S_ISFIFO(mode := _mode(Path(root, name))) and not stat.S_ISSOCK(mode):
                yield Path(root, name).relative_to(folder).as_posix()


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0  # a broken link: reading it raises the error


def _reraise(error: OSError) -> None:
    raise error
