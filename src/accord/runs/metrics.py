"""metrics.jsonl: one row per step, complete up to the last step however the run ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accord.errors import DataError
from accord.runs.atomic import write_text_atomic
from accord.runs.json_values import to_json_value
from accord.runs.storage import storage_errors


class MetricsLog:
    """Appends rows to a file; each is handed to the operating system before `append` returns.

    A row has an integer `step`. NaN and infinities are written as null, since JSON has no number
    for them: a null loss was not finite.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row. Raises ValueError without a step, StorageError when the disk fails."""
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"a row of metrics needs an integer step, got {step!r}")
        line = json.dumps(to_json_value(row), ensure_ascii=False, allow_nan=False)
        with storage_errors(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _remove_torn_line(self.path)
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(line + "\n")
            self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Removes the rows after `step` and a torn last line, to resume from a checkpoint."""
        self.close()
        if not self.path.exists():
            return
        rows = read_metrics(self.path)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows if row["step"] <= step]
        write_text_atomic(self.path, "".join(line + "\n" for line in lines))

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
    """The rows of a metrics.jsonl in order, without a torn last line, which a killed run leaves.

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
                "Remove the line, or start a new run in another folder."
            )
        rows.append(row)
    return rows


def _remove_torn_line(path: Path) -> None:
    """Removes what follows the last newline, so that the next row begins a new line."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)
