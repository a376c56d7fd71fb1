"""metrics.jsonl: one row a step, complete up to the last step whatever ends the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accord.errors import DataError
from accord.runs.atomic import write_text_atomic
from accord.runs.json_values import json_ready
from accord.runs.storage import storage_errors


class MetricsLog:
    """Appends rows to a file, each on the disk's way before `append` returns.

    A row has an integer `step`. NaN and infinities are written as null, since JSON has no number
    for them: a null loss says that it was not finite.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row. Raises ValueError without a step, StorageError when the disk fails."""
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"a row of metrics needs an integer step, got {step!r}")
        line = json.dumps(json_ready(row), ensure_ascii=False, allow_nan=False)
        with storage_errors(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _cut_torn_line(self.path)
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(line + "\n")
            self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Drops the rows after `step` and a torn last line: on going on from a checkpoint."""
        self.close()
        if not self.path.exists():
            return
        rows = read_metrics(self.path)
        kept = [json.dumps(row, ensure_ascii=False) for row in rows if row["step"] <= step]
        write_text_atomic(self.path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Closes the file; a later `append` opens it again."""
        if self._file is not None:
            with storage_errors(self.path):
                self._file.close()
            self._file = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order; a torn last line (a killed run's) is left out.

    Raises DataError with file and line for any other line that is not a row with a step.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(f"There is no {str(path)!r}. Name a training stage's folder.") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(
                f"{path}:{number} is not a row of metrics with a `step`: {line[:80]!r}. "
                "Remove the line, or start the run afresh in another folder."
            )
        rows.append(row)
    return rows


def _cut_torn_line(path: Path) -> None:
    """Takes off what follows the last newline, so that a new row begins a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)
