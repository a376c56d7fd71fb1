"""Whether two runs of the same command gave the same files, to the bit, but for clocks."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from accord.runs import read_metrics

CLOCKS = ("seconds", "peak_memory_mb")
"""The only numbers of metrics.jsonl that may differ between two runs."""

_MANIFEST_CLOCKS = ("started", "finished", "attempts")
_STAGE_CLOCKS = ("seconds", "finished")


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """A training stage's metrics without clocks."""
    return _without_clocks(folder / "metrics.jsonl")


def differences(first: Path, second: Path) -> list[str]:
    """The differences between two folders, in words: names in only one of them, and contents.

    Every file is compared, hidden ones and unfinished ones of writers too. In metrics, manifests,
    stage files and stores everything is compared but times.
    """
    first_names, second_names = _names(first), _names(second)
    unmatched = [f"only in {first}: {name}" for name in sorted(first_names - second_names)]
    unmatched += [f"only in {second}: {name}" for name in sorted(second_names - first_names)]
    common = sorted(first_names & second_names)
    changed = [name for name in common if _content(first / name) != _content(second / name)]
    return unmatched + [f"differs: {name}" for name in changed]


def _names(folder: Path) -> set[str]:
    """Paths of all files, and of empty folders, which a killed writer may have left."""
    paths = [p for p in folder.rglob("*") if p.is_file() or (p.is_dir() and not any(p.iterdir()))]
    return {p.relative_to(folder).as_posix() for p in paths}


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        return _without_clocks(path)
    if path.suffix == ".db":
        return _tables(path)
    if path.name in ("manifest.json", "stage.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        clocks = _MANIFEST_CLOCKS if path.name == "manifest.json" else _STAGE_CLOCKS
        # A store holds times, so its digest and that of a stage which reads it differ.
        inputs = {name: d for name, d in record["inputs"].items() if not name.endswith(".db")}
        if len(inputs) < len(record["inputs"]):
            clocks = (*clocks, "digest")
        compared = {key: v for key, v in record.items() if key not in (*clocks, "inputs")}
        return {**compared, "inputs": inputs, "ended": record["finished"] is not None}
    return path.read_bytes() if path.is_file() else None


def _without_clocks(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(path)]


def _tables(path: Path) -> dict[str, list[Any]]:
    """All rows of a store in order, without the times at which they were written."""
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        return {name: _rows(connection, name) for (name,) in connection.execute(query).fetchall()}
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, table: str) -> list[Any]:
    rows = connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
    times = ("created", "applied")
    compared = [i for i, column in enumerate(rows.description) if column[0] not in times]
    return [[row[i] for i in compared] for row in rows]
