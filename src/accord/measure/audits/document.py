"""The content of probe.json, audit.json and redteam.json: audits of one subject, and its text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import accord
from accord.measure.audits.audit import VERDICTS, Audit, Verdict, worst_verdict
from accord.measure.statistics import Interval

DocumentKind = Literal["probe", "audit", "redteam"]
HEADINGS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL", "undecided": "UNDECIDED"}


@dataclass(frozen=True, slots=True)
class AuditDocument:
    """All audits that one command made of one subject: a model, a reward, or several models.

    `settings` are those of the command, `results` further tables of its own, as JSON holds them,
    and `notes` sentences on what was left out or not measured.
    """

    kind: DocumentKind
    subject: str
    audits: tuple[Audit, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all audits."""
        return worst_verdict(self.audits)

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "kind": self.kind,
            "version": accord.__version__,
            "subject": self.subject,
            "verdict": self.verdict,
            "audits": [audit.to_json() for audit in self.audits],
            "results": dict(self.results),
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AuditDocument:
        """The document that `to_json` wrote. Raises KeyError or TypeError for other content."""
        return cls(
            content["kind"],
            content["subject"],
            tuple(Audit.from_json(row) for row in content["audits"]),
            content["settings"],
            content["results"],
            tuple(content["notes"]),
        )

    def groups(self) -> list[tuple[str, list[Audit]]]:
        """The audits by group, in the order of each group's first, the worst first in each."""
        groups: dict[str, list[Audit]] = {}
        for audit in self.audits:
            groups.setdefault(audit.group, []).append(audit)
        return [(g, sorted(a, key=lambda a: VERDICTS.index(a.verdict))) for g, a in groups.items()]

    def text(self) -> str:
        """The document for a terminal: the audits by group, the worst first within each."""
        return "\n".join(_lines(self))


def format_value(value: Interval, unit: str) -> str:
    """A value with its interval, in the unit's form: `12% (8% to 17%)`; "unknown" without data."""
    if not math.isfinite(value.mean):
        return "unknown"
    if value.low is None and value.high is None:
        return _number(value.mean, unit)
    low, high = ("open" if v is None else _number(v, unit) for v in (value.low, value.high))
    return f"{_number(value.mean, unit)} ({low} to {high})"


def limits(audit: Audit) -> str:
    """Which values are warned of and failed, in words; nothing where there is no threshold."""
    if audit.threshold is None:
        return ""
    side = "more" if audit.threshold.bad == "high" else "less"
    fails, warns = (_number(v, audit.unit) for v in (audit.threshold.fail, audit.threshold.warn))
    return f"warned of at {side} than {warns}, failed at {side} than {fails}"


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.3g}%"
    suffix = {"nats": " nats", "words": " words"}.get(unit, "")
    return f"{value:.3g}{suffix}"


def _lines(document: AuditDocument) -> Iterator[str]:
    counts = {v: sum(a.verdict == v for a in document.audits) for v in VERDICTS}
    counted = ", ".join(f"{n} {HEADINGS[v].lower()}" for v, n in counts.items() if n)
    heading = HEADINGS[worst_verdict(document.audits)]
    yield f"{document.subject}: {heading} ({counted or 'no audits'})"
    for group, audits in document.groups():
        yield ""
        yield group[:1].upper() + group[1:]
        for audit in audits:
            yield from _audit_lines(audit)
    if document.notes:
        yield ""
        yield from document.notes


def _audit_lines(audit: Audit) -> Iterator[str]:
    width = max(len(heading) for heading in HEADINGS.values())
    yield f"  {HEADINGS[audit.verdict]:<{width}}  {audit.name}: {audit.finding}"
    if audit.verdict == "pass" or audit.threshold is None:
        return
    indent = " " * (width + 4)
    yield (
        f"{indent}{format_value(audit.value, audit.unit)} over {audit.count:,} {audit.cases}; "
        f"{limits(audit)}: {audit.threshold.why}"
    )
    if audit.verdict == "undecided":
        yield f"{indent}{_more(audit)}"


def _more(audit: Audit) -> str:
    if audit.needed is None:
        return "How many more cases would decide is not known."
    return f"About {audit.needed:,} more {audit.cases} would decide, if the mean stays as it is."
