"""attempts.jsonl: every answer of a model, written before anything else happens with it.

A line is a call of an attack of several turns, a whole attempt, or a verdict on harm. Each is
handed to the operating system at once, so a run that is killed loses the calls under way and no
other, and pays for none twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from accord.errors import DataError
from accord.pipeline.redteam.targets import TargetAnswer
from accord.runs import storage_errors
from accord.runs.json_values import to_json_value

FILE = "attempts.jsonl"
TEXTS = ("turns", "text")  # of an attempt, read again where they are needed
BLOCK = 1 << 16


@dataclass(slots=True)
class Logged:
    """What a log holds, by the key of the attempt: finished attempts without their texts, the calls
    of unfinished ones in order, and harm by attempt and judge, None where it has no verdict.

    `positions` are those of the finished attempts' lines in the file.
    """

    attempts: dict[str, dict[str, Any]] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    harm: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], position: int) -> None:
        """Add a line; of equal attempts the first counts."""
        kind, key = row["kind"], row["key"]
        if kind == "attempt" and key not in self.attempts:
            self.attempts[key] = _without_texts(row)
            self.positions[key] = position
            self.calls.pop(key, None)
        elif kind == "call" and key not in self.attempts:
            calls = self.calls.setdefault(key, [])
            if row["number"] == len(calls):
                calls.append(dict(row))
        elif kind == "harm":
            self.harm.setdefault((key, sys.intern(row["judge"])), row.get("harm"))


def _without_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is counted of an attempt. Words that many attempts share are in memory once."""
    return {
        name: sys.intern(value) if isinstance(value, str) and name != "key" else value
        for name, value in row.items()
        if name not in TEXTS
    }


class AttemptLog:
    """The log of a run, open to append. `logged` is what it holds."""

    def __init__(self, path: str | Path) -> None:
        """Raises DataError for a line that is no row of a log, StorageError where the disk
        fails."""
        self.path = Path(path)
        self.logged = Logged()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                _cut_torn_line(self.path)
                for position, row in _lines(self.path):
                    self.logged.add(row, position)
            self._file: BinaryIO = self.path.open("a+b")
            self._end = self.path.stat().st_size

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a line. Raises StorageError where the disk fails."""
        line = json.dumps(to_json_value(row), ensure_ascii=False, allow_nan=False)
        line = line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"
        data = line.encode("utf-8")
        with storage_errors(self.path):
            self._file.write(data)
            self._file.flush()
        self.logged.add(row, self._end)
        self._end += len(data)

    def read(self, key: str) -> dict[str, Any]:
        """A finished attempt with its texts."""
        with storage_errors(self.path):
            self._file.seek(self.logged.positions[key])
            line = self._file.readline()
        row: dict[str, Any] = json.loads(line)
        return row

    def close(self) -> None:
        with storage_errors(self.path):
            self._file.close()

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, without a torn last one. Raises DataError with the line for another that
    is none."""
    return (row for _, row in _lines(path))


def _lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines with their positions in the file."""
    position = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # torn, by a run that was killed
            try:
                row = json.loads(line)
                known = row["kind"] in ("call", "attempt", "harm") and isinstance(row["key"], str)
            except (ValueError, TypeError, KeyError):
                known = False
            if not known:
                raise DataError(
                    f"{path}:{number} is no line of a red team's log: {line[:80]!r}. Remove it, or "
                    "start in another output_dir."
                )
            yield position, row
            position += len(line)


def answer_json(answer: TargetAnswer) -> dict[str, Any]:
    """An answer as a line has it, without what is empty."""
    return {key: value for key, value in asdict(answer).items() if value not in (None, "")}


def answer_from_json(row: Mapping[str, Any]) -> TargetAnswer:
    """The inverse of `answer_json`, of a line that may hold more."""
    return TargetAnswer(**{key: row[key] for key in TargetAnswer.__slots__ if key in row})


def _cut_torn_line(path: Path) -> None:
    size = start = path.stat().st_size
    end = 0  # behind the last line's end
    with path.open("rb") as file:
        while start and not end:
            start = max(0, start - BLOCK)
            file.seek(start)
            line_end = file.read(BLOCK).rfind(b"\n") + 1
            end = start + line_end if line_end else 0
    if end != size:
        os.truncate(path, end)
