"""A judge's answers, kept in the user's cache: what was asked once is not asked again.

One file holds the answers of one model at one endpoint, a line of JSON each: a digest of the whole
question, and the answer. Lines are only ever added, under a lock, so runs may share a file; a line
that a killed process left torn is passed over.
"""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accord.runs import digest_json, storage_errors
from accord.runs.cache import cache_folder


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """What an endpoint answered, and the tokens it counted; None where it does not count.

    `cut` says that a limit on its length ended it.
    """

    text: str
    cut: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class AnswerCache:
    """Answers by the digest of their question, read when opened. For any number of threads."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        """`about` names the endpoint and the model. Raises StorageError where the cache fails."""
        self.place = cache_folder("judge") / f"{digest_json(about)[:32]}.jsonl"
        self._lock = threading.Lock()
        with storage_errors(self.place):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self._found = _read(self.place)

    def get(self, key: str) -> CachedAnswer | None:
        return self._found.get(key)

    def keep(self, key: str, answer: CachedAnswer) -> None:
        """Write an answer down before it is used. Raises StorageError where the disk fails."""
        line = json.dumps({"key": key, **asdict(answer)}) + "\n"  # in ASCII
        with self._lock, storage_errors(self.place), self.place.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() and not _ends_a_line(file):
                line = "\n" + line  # a killed writer left a torn one
            file.write(line.encode())
            file.flush()
            self._found[key] = answer


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def _read(place: Path) -> dict[str, CachedAnswer]:
    if not place.is_file():
        return {}
    found: dict[str, CachedAnswer] = {}
    for line in place.read_bytes().splitlines():
        try:
            row = json.loads(line)
            key = row.pop("key")
            found[key] = CachedAnswer(**row)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # torn
    return found
