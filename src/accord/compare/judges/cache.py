"""A cache of a judge's answers on disk, so that no request is paid for twice.

One file holds the answers of one model at one endpoint, a line of JSON each: a digest of the whole
request, and the answer. Lines are only ever appended, under a lock, so runs may share a file; a
line that a killed process left incomplete is skipped.
"""

from __future__ import annotations

import fcntl
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
    a filter gave none.
    """

    text: str
    cut: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    withheld: str | None = None


class AnswerCache:
    """Answers by the digest of their request, loaded when opened. Thread-safe."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        """`about` names the endpoint and the model. Raises StorageError where the cache fails."""
        self.path = cache_folder("judge") / f"{digest_json(about)[:32]}.jsonl"
        self._lock = threading.Lock()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._answers = _load_answers(self.path)

    def get(self, key: str) -> CachedAnswer | None:
        """The cached answer to the request with this digest."""
        return self._answers.get(key)

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Append an answer to the file. Raises StorageError where the disk fails."""
        line = json.dumps({"key": key, **asdict(answer)}) + "\n"  # in ASCII
        with self._lock, storage_errors(self.path), self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, os.SEEK_END) and not _ends_with_newline(file):
                line = "\n" + line  # a killed writer left an incomplete line
            file.write(line.encode())
            file.flush()
            self._answers[key] = answer


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _load_answers(path: Path) -> dict[str, CachedAnswer]:
    if not path.is_file():
        return {}
    answers: dict[str, CachedAnswer] = {}
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            key = row.pop("key")
            answers[key] = CachedAnswer(**row)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # an incomplete line
    return answers
