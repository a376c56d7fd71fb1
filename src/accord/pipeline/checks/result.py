"""The result of `accord data check`: what was read, and the findings; as JSON and as a new file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from accord.compare.store.connection import is_store
from accord.data.files import expand_path, read_rows
from accord.data.report import ReadReport
from accord.data.values import json_value
from accord.errors import RequestError
from accord.measure.statistics import Interval
from accord.pipeline.checks.findings import DataFinding
from accord.pipeline.checks.kinds import KINDS, Level
from accord.runs.activity import with_activity
from accord.runs.atomic import write_lines_atomic
from accord.settings.reading.suggest import nearest

Excerpt = list[tuple[str, str]]
"""The texts of a row, each with its name, such as `chosen`."""


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What was read at a path, the findings, and the kinds that were checked and are clean.

    `unchecked` are the kinds that could not be checked, each with the reason. `excerpts` are the
    texts of the rows that a page shows, by the row's number. `agreement` is how often a model of
    words predicts the label of an unseen prompt's pair; None with too few pairs.
    """

    report: ReadReport
    kind: str
    summary: str
    findings: Sequence[DataFinding] = ()
    clean: Sequence[str] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    excerpts: Mapping[int, Excerpt] = field(default_factory=dict)
    agreement: Interval | None = None

    def count(self, level: Level) -> int:
        """The number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def reaches(self, level: str) -> bool:
        """Whether there is a finding of the level `error` or `warning`, or a graver one."""
        levels: dict[str, tuple[Level, ...]] = {
            "error": ("error",),
            "warning": ("error", "warning"),
        }
        return any(self.count(graver) for graver in levels.get(level, ()))

    def to_json(self, rows: int | None = None) -> dict[str, Any]:
        """All findings, with all their rows or the first `rows` of them."""
        return {
            "path": self.report.path,
            "kind": self.kind,
            "rows": self.report.rows,
            "used": self.report.used,
            "records": self.report.records,
            "notes": list(self.report.notes),
            "remarks": list(self.remarks),
            "findings": [finding.to_json(rows) for finding in self.findings],
            "without_finding": {kind: KINDS[kind].title for kind in self.clean},
            "not_checked": {KINDS[k].title: reason for k, reason in self.unchecked.items()},
        }


def require_kinds(kinds: Sequence[str], option: str, *, rows: bool = False) -> None:
    """Raise RequestError for a kind of finding that there is none of, or that names no rows."""
    known = [name for name, kind in KINDS.items() if kind.names_rows or not rows]
    for name in kinds:
        if name not in known:
            near = nearest(name, known)
            suggestion = f" Did you mean {near}?" if near else ""
            raise RequestError(
                f"There is no kind of finding {name!r} ({option}).{suggestion} The kinds are "
                f"{', '.join(known)}."
            )


def require_new_file(path: str, output: str) -> None:
    """Raise RequestError where rows can't be taken from `path` and written to `output`."""
    if is_store(path):
        raise RequestError(
            f"{path} is a preference store, in which nothing is overwritten. Give a file of rows, "
            "or leave --write out."
        )
    if not output.endswith(".jsonl"):
        raise RequestError(
            f"--write {output} must end with .jsonl: rows are written as JSON lines."
        )
    if Path(output).resolve() == expand_path(path).resolve():
        raise RequestError(f"--write {output} is the file that is checked. Name a new one.")


def write_without(check: DataCheck, path: str, drop: Sequence[str], output: str) -> tuple[int, int]:
    """Write the rows at `path` to `output` as JSON lines, without those of some findings.

    Rows that are no rows at all (not valid JSON) are never written. Returns the numbers of rows
    written and left out. Raises RequestError where a kind was not checked, StorageError where the
    disk refuses.
    """
    for kind in drop:
        if kind in check.unchecked:
            raise RequestError(
                f"--drop {kind}: that was not checked ({check.unchecked[kind]}), so nothing is "
                "written."
            )
    dropped = [f.rows for f in check.findings if f.kind in drop and f.rows is not None]
    left_out = {row.number for rows in dropped for row in rows}
    counts = np.zeros(2, np.int64)

    def lines() -> Iterator[str]:
        for number, row in enumerate(with_activity(read_rows(path), "writing")):
            use = number not in left_out and row.error is None
            counts[0 if use else 1] += 1
            if use:
                yield json.dumps(json_value(row.values), ensure_ascii=False, allow_nan=False) + "\n"

    write_lines_atomic(output, lines())
    return int(counts[0]), int(counts[1])
