"""What training broke: audits of tasks, held-out text and questions, as a table and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.measure.audits.audit import Audit, Verdict, worst_verdict
from accord.measure.audits.broken import GROUP, HELD_OUT, TASK
from accord.measure.audits.document import AuditDocument
from accord.measure.audits.yes_no import QUESTIONS
from accord.measure.ratings.notes import join_names
from accord.report.findings.finding import Finding, Level
from accord.report.formatting import (
    format_interval,
    format_number,
    format_percent,
    format_signed,
    visible,
)
from accord.report.tables.cells import Cell

WORDS: Mapping[Verdict, str] = {
    "fail": "{} got worse",
    "warn": "{} may have got worse",
    "undecided": "the data do not decide {}",
}
LEVELS: Mapping[Verdict, Level] = {"fail": "warning", "warn": "warning", "undecided": "note"}


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """What was measured, before and after, the change with its interval, how many answers changed,
    and the verdict."""

    name: str
    before: Cell
    after: Cell
    change: Cell
    turned: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class BrokenTable:
    """A sentence, and a row for each audit, the worst first."""

    sentence: str
    rows: tuple[ChangeRow, ...]


def broken_table(document: AuditDocument) -> BrokenTable | None:
    """The table of an audit; None where nothing of the kind was measured."""
    audits = _broken(document)
    if not audits:
        return None
    return BrokenTable(_sentence(document, audits), tuple(map(_row, audits)))


def broken_findings(documents: Sequence[AuditDocument]) -> list[Finding]:
    """The sentence of each audit that measured what training broke."""
    findings = []
    for document in documents:
        audits = _broken(document)
        if audits:
            level = LEVELS.get(worst_verdict(audits), "good")
            findings.append(Finding(level, _sentence(document, audits)))
    return findings


def _broken(document: AuditDocument) -> list[Audit]:
    """The audits of what training broke, the worst first."""
    if document.kind != "audit":
        return []
    by_group = dict(document.groups())
    return [audit for audit in by_group.get(GROUP, ()) if audit.count]


def _sentence(document: AuditDocument, audits: Sequence[Audit]) -> str:
    subject = visible(document.subject)
    parts = []
    for verdict, word in WORDS.items():
        of_verdict = [audit for audit in audits if audit.verdict == verdict]
        if of_verdict:
            parts.append(word.format(join_names([_fall(audit) for audit in of_verdict])))
    passed = [_title(audit) for audit in audits if audit.verdict == "pass"]
    if not parts:
        return f"What training broke in {subject}: nothing among {join_names(passed)}."
    rest = f"; {join_names(passed)} did not get worse" if passed else ""
    return f"What training broke in {subject}: {'; '.join(parts)}{rest}."


def _fall(audit: Audit) -> str:
    """An audit's name, with the change of its number."""
    before, after = (_mean(audit, side) for side in ("before", "after"))
    return f"{_title(audit)} ({_number(audit, before)} to {_number(audit, after)})"


def _title(audit: Audit) -> str:
    if audit.name == HELD_OUT:
        return "the loss on held-out text"
    if audit.name == QUESTIONS:
        return "yes/no questions"
    return f"the task {visible(audit.name.removeprefix(TASK))}"


def _row(audit: Audit) -> ChangeRow:
    value, turned = audit.value, ""
    if "became_wrong" in audit.details:
        wrong, right = audit.details["became_wrong"], audit.details["became_right"]
        turned = f"{wrong:,} became wrong, {right:,} right"
    scale, digits = (100, 1) if audit.unit == "share" else (1, 3)
    low, high = (None if end is None else end * scale for end in (value.low, value.high))
    bounds = format_interval(low, high, digits)
    change = Cell(format_signed(value.mean * scale, digits), bounds)
    title = _title(audit)
    return ChangeRow(
        title[0].upper() + title[1:],
        _cell(audit, "before"),
        _cell(audit, "after"),
        change,
        turned,
        audit.verdict,
    )


def _cell(audit: Audit, side: str) -> Cell:
    interval: Mapping[str, Any] = audit.details.get(side) or {}
    low, high = interval.get("low"), interval.get("high")
    small = ""
    if low is not None and high is not None:
        small = f"{_number(audit, low)} to {_number(audit, high)}"
    return Cell(_number(audit, interval.get("mean")), small)


def _mean(audit: Audit, side: str) -> float | None:
    return (audit.details.get(side) or {}).get("mean")


def _number(audit: Audit, value: float | None) -> str:
    """A share right, or nats a token."""
    return format_percent(value, 1) if audit.unit == "share" else format_number(value, 3)
