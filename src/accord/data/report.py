"""What became of the rows of a data set: used, dropped with a reason, read in another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.records import Source

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class ReadReport:
    """`used` of `rows` rows became `records` records; `dropped` holds the others by reason."""

    place: str
    rows: int
    used: int
    records: int
    dropped: dict[str, list[tuple[Source, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One paragraph: rows, rows used, rows dropped with reasons and where, and the notes."""
        lost = sum(len(rows) for rows in self.dropped.values())
        told = f"{self.rows:,} rows, {self.used:,} used, {lost:,} dropped"
        if lost:
            told += ": " + "; ".join(reasons(self.dropped))
        notes = "".join(f" {note[0].upper()}{note[1:]}." for note in self.notes)
        return f"{told}.{notes}"

    def to_json(self) -> dict[str, Any]:
        """Everything, with each dropped row's place, line and detail, as JSON can hold it."""
        return {
            "place": self.place,
            "rows": self.rows,
            "used": self.used,
            "records": self.records,
            "dropped": {
                reason: [{"place": s.place, "line": s.line, "detail": d} for s, d in rows]
                for reason, rows in self.dropped.items()
            },
            "notes": list(self.notes),
        }


def reasons(dropped: dict[str, list[tuple[Source, str]]]) -> list[str]:
    """`4 an empty response (a.jsonl:3, …)` for each reason, the most frequent first."""
    ordered = sorted(dropped.items(), key=lambda item: -len(item[1]))
    return [f"{len(rows):,} {reason} ({_where(rows)})" for reason, rows in ordered]


def _where(rows: Sequence[tuple[Source, str]]) -> str:
    shown = [str(Source(Path(s.place).name, s.line)) for s, _ in rows[:EXAMPLES]]
    return ", ".join(shown) + (", …" if len(rows) > EXAMPLES else "")
