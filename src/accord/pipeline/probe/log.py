"""scores.jsonl: each score or verdict as soon as it is there, so that none is paid for twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import accord
from accord.errors import DataError
from accord.runs import digest_json, digest_path, storage_errors
from accord.settings.base import Settings
from accord.settings.identity import identity_settings, input_paths

Values = tuple[float, ...]
"""A score; or a judge's verdict in both orders (1, ½, 0). NaN where there is none."""


class ScoreLog:
    """Values by key, appended to a file. A key holds the digest of what was asked and of whom, so
    that the values of a reward that has changed since are not read as its own."""

    def __init__(self, path: str | Path, source: str) -> None:
        """Read what a killed run left, without a torn last line. `source` identifies the reward.

        Raises DataError for a line that is none of this log.
        """
        self.path = Path(path)
        self.source = source
        self.values: dict[str, Values] = {}
        with storage_errors(self.path):
            if self.path.exists():
                self._read()

    def key(self, *asked: Any) -> str:
        """The key of a question: its JSON values and the reward."""
        return digest_json([self.source, *asked])

    def add(self, values: Mapping[str, Values]) -> None:
        """Append values; they are handed to the operating system before this returns. NaN is not
        written: the next run asks for what has no value again."""
        self.values |= values
        lines = "".join(
            json.dumps({"key": key, "values": numbers}) + "\n"
            for key, numbers in values.items()
            if all(map(math.isfinite, numbers))
        )
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without a value, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self.values]

    def _read(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self.path, end)
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                row = json.loads(line)
                self.values[str(row["key"])] = tuple(map(float, row["values"]))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{self.path}:{number} is no line of a log of scores: {line[:80]!r}. Remove "
                    f"the line, or give another output_dir."
                ) from error


def sources_identity(sources: Sequence[Settings], precision: str) -> str:
    """A digest of what gives a score: the settings of a reward's sources or of a judge, and the
    content of what they read."""
    paths = sorted({path for source in sources for path in input_paths(source)})
    return digest_json(
        {
            "sources": [identity_settings(source) for source in sources],
            "inputs": {path: digest_path(path) for path in paths if Path(path).exists()},
            "precision": precision,
            "version": accord.__version__,
        }
    )
