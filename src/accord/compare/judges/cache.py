"""A cache of a judge's answers on disk, so that no request is paid for twice.

One file holds the answers of one model at one endpoint, a line of JSON each: a digest of the whole
request, and the answer. Lines are only ever appended, under a lock, so runs may share a file; a
line that a killed process left incomplete is skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accord.runs import digest_json, storage_errors
from accord.runs.cache import cache_folder


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An endpoint's answer, and its token counts; None where the endpoint does not report them.

    `cut` is True for an answer that a limit on its length ended; `withheld` says why the model or
    a filter gave none. Of the prompt's tokens `prefix_tokens` came from the server's cache of
    prefixes.
    """

    text: str
    cut: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    withheld: str | None = None
    prefix_tokens: int = 0


class AnswerCache:
    """Answers by the digest of their request. In memory is only where each stands in the file.
    Thread-safe."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        """`about` names the endpoint and the model. Raises StorageError where the cache fails."""
        self.path = cache_folder("judge") / f"{digest_json(about)[:32]}.jsonl"
        self._lock = threading.Lock()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._offsets = _find_answers(self.path)

    def get(self, key: str) -> CachedAnswer | None:
        """The cached answer to the request with this digest. Raises StorageError where the disk
        fails."""
        offset = self._offsets.get(_short(key))
        if offset is None:
            return None
        try:
            with storage_errors(self.path), self.path.open("rb") as file:
                file.seek(offset)
                parsed = _parse_line(file.readline())
        except FileNotFoundError:  # removed since: as if it had never been there
            return None
        return parsed[1] if parsed is not None and parsed[0] == key else None

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Append an answer to the file. Raises StorageError where the disk fails."""
        line = json.dumps({"key": key, **asdict(answer)}) + "\n"  # in ASCII
        with self._lock, storage_errors(self.path), self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            offset = file.seek(0, os.SEEK_END)
            if offset and not _ends_with_newline(file):
                line = "\n" + line  # a killed writer left an incomplete line
                offset += 1
            file.write(line.encode())
            file.flush()
            self._offsets[_short(key)] = offset


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _short(key: str) -> bytes:
    """A key for the table in memory, which may hold a million of them."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:12]


def _find_answers(path: Path) -> dict[bytes, int]:
    """Where the answers of a file begin, by `_short`; of equal keys the last."""
    if not path.is_file():
        return {}
    offsets: dict[bytes, int] = {}
    offset = 0
    with path.open("rb") as file:
        for line in file:
            parsed = _parse_line(line)
            if parsed is not None:
                offsets[_short(parsed[0])] = offset
            offset += len(line)
    return offsets


def _parse_line(line: bytes) -> tuple[str, CachedAnswer] | None:
    """A key with its answer; None for an incomplete line."""
    try:
        row = json.loads(line)
        key = row.pop("key")
        return (key, CachedAnswer(**row)) if isinstance(key, str) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
