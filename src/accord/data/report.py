"""What happened to the rows of a data set: used, dropped with a reason, or converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accord.records import Source

MAX_LOCATIONS = 3  # that a reason shows

Dropped = dict[str, list[tuple[Source, str]]]
"""Rows that can't be used, by reason: each row's source, and a detail that is this row's alone."""


@dataclass(frozen=True, slots=True)
class ReadReport:
    """`used` of `rows` rows became `records` records; `dropped` holds the others by reason."""

    path: str
    rows: int
    used: int
    records: int
    dropped: Dropped = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One paragraph: rows, rows used, rows dropped with reasons and where, and the notes."""
        num_dropped = count_dropped(self.dropped)
        counts = f"{self.rows:,} rows, {self.used:,} used, {num_dropped:,} dropped"
        if num_dropped:
            counts += ": " + "; ".join(format_reasons(self.dropped))
        notes = "".join(f" {note[0].upper()}{note[1:]}." for note in self.notes)
        return f"{counts}.{notes}"

    @property
    def name(self) -> str:
        """The name of the file, store or list that was read, without its folder."""
        return str(Source(self.path).without_folder())

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON, with each dropped row's path, line and detail."""
        return {
            "place": self.path,
            "rows": self.rows,
            "used": self.used,
            "records": self.records,
            "dropped": {
                reason: [{"place": s.path, "line": s.line, "detail": d} for s, d in rows]
                for reason, rows in self.dropped.items()
            },
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReadReport:
        """The report of a file that `to_json` wrote. Raises KeyError where it is no such report."""
        dropped = {
            reason: [(Source(row["place"], row["line"]), row["detail"]) for row in rows]
            for reason, rows in values["dropped"].items()
        }
        counts = {name: values[name] for name in ("rows", "used", "records")}
        return cls(path=values["place"], dropped=dropped, notes=values["notes"], **counts)


def count_dropped(dropped: Dropped) -> int:
    """The number of dropped rows."""
    return sum(len(rows) for rows in dropped.values())


def format_reasons(dropped: Dropped) -> list[str]:
    """`4 an empty response (a.jsonl:3, …)` for each reason, the most frequent first."""
    ordered = sorted(dropped.items(), key=lambda item: -len(item[1]))
    return [f"{len(rows):,} {reason} ({_format_locations(rows)})" for reason, rows in ordered]


def _format_locations(rows: Sequence[tuple[Source, str]]) -> str:
    shown = [str(source.without_folder()) for source, _ in rows[:MAX_LOCATIONS]]
    return ", ".join(shown) + (", …" if len(rows) > MAX_LOCATIONS else "")
