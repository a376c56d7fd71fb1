"""Whether two runs of the same command gave the same, to the bit, but for clocks."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from accord.runs import read_metrics

CLOCKS = ("seconds", "peak_memory_mb")
"""The only numbers of metrics.jsonl that may differ between two runs."""

_OF_MANIFEST = ("started", "finished", "attempts")
_OF_STAGE = ("seconds", "finished")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """A training stage's metrics without clocks."""
    return _without_clocks(folder / "metrics.jsonl")


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two folders: names that only one has, and contents, in words.

    Every file counts, hidden ones and those that a writer left half written too. Of metrics,
    manifests, stage files and stores everything counts but times.
    """
    names, others = _names(one), _names(other)
    alone = [f"only in {one}: {name}" for name in sorted(names - others)]
    alone += [f"only in {other}: {name}" for name in sorted(others - names)]
    both = sorted(names & others)
    changed = [n for n in both if _content(one / n) != _content(other / n)]
    return alone + [f"differs: {name}" for name in changed]


def _names(folder: Path) -> set[str]:
    """Of all files, and of folders that hold none, which a killed writer may have left."""
    entries = list(folder.rglob("*"))
    kept = [p for p in entries if p.is_file() or (p.is_dir() and not any(p.iterdir()))]
    return {p.relative_to(folder).as_posix() for p in kept}


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        return _without_clocks(path)
    if path.suffix == ".db":
        return _tables(path)
    if path.name in ("manifest.json", "stage.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        clocks = _OF_MANIFEST if path.name == "manifest.json" else _OF_STAGE
        ended = told["finished"] is not None
        inputs = {place for place in told["inputs"] if not place.endswith(".db")}
        if len(inputs) < len(told["inputs"]):  # a store holds times, and so does its digest
            clocks = (*clocks, "digest")
        kept = {key: value for key, value in told.items() if key not in (*clocks, "inputs")}
        return {**kept, "inputs": {p: told["inputs"][p] for p in inputs}, "ended": ended}
    return path.read_bytes() if path.is_file() else None


def _without_clocks(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(path)]


def _tables(path: Path) -> dict[str, list[Any]]:
    """All rows of a store in order, without the times at which they were made."""
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        return {name: _rows(connection, name) for (name,) in connection.execute(query).fetchall()}
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, table: str) -> list[Any]:
    found = connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
    times = ("created", "applied")
    kept = [i for i, column in enumerate(found.description) if column[0] not in times]
    return [[row[i] for i in kept] for row in found]
