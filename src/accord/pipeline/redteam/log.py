"""attempts.jsonl: every answer of a model, written before anything else happens with it.

A line is a call of an attack of several turns, a whole attempt, or a verdict on harm. Each is
handed to the operating system at once, so a run that is killed loses the calls under way and no
other, and pays for none twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from accord.errors import DataError
from accord.pipeline.redteam.targets import TargetAnswer
from accord.runs import storage_errors
from accord.runs.json_values import to_json_value

FILE = "attempts.jsonl"


@dataclass(slots=True)
class Logged:
    """What a log holds, by the key of the attempt: finished attempts, the calls of unfinished ones
    in order, and verdicts on harm by attempt and judge."""

    attempts: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    harm: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a line; of equal attempts the first counts."""
        kind, key = row["kind"], row["key"]
        if kind == "attempt":
            self.attempts.setdefault(key, dict(row))
        elif kind == "call":
            calls = self.calls.setdefault(key, [])
            if row["number"] == len(calls):
                calls.append(dict(row))
        elif kind == "harm":
            self.harm.setdefault((key, row["judge"]), dict(row))
        else:
            raise KeyError(kind)


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
                for row in read_log(self.path):
                    self.logged.add(row)
            self._file: TextIO = self.path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a line. Raises StorageError where the disk fails."""
        line = json.dumps(to_json_value(row), ensure_ascii=False, allow_nan=False)
        with storage_errors(self.path):
            self._file.write(line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n")
            self._file.flush()
        self.logged.add(row)

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
            yield row


def answer_json(answer: TargetAnswer) -> dict[str, Any]:
    """An answer as a line has it, without what is empty."""
    return {key: value for key, value in asdict(answer).items() if value not in (None, "")}


def answer_from_json(row: Mapping[str, Any]) -> TargetAnswer:
    """The inverse of `answer_json`, of a line that may hold more."""
    return TargetAnswer(**{key: row[key] for key in TargetAnswer.__slots__ if key in row})


def _cut_torn_line(path: Path) -> None:
    with path.open("rb") as file:
        content = file.read()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)
