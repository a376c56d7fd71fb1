"""The audits on the page: a section for each probe, audit and red-teaming of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accord.measure.audits.audit import Audit, AuditSample, Verdict, worst_verdict
from accord.measure.audits.document import AuditDocument, DocumentKind, format_value, limits
from accord.measure.ratings.notes import join_names
from accord.report.findings.finding import Finding
from accord.report.formatting import format_number, split_text, visible
from accord.report.tables.broken import BrokenTable, broken_findings, broken_table

TITLES: dict[DocumentKind, str] = {
    "audit": "Audit of {}",
    "redteam": "Red-teaming of {}",
    "probe": "Probe of the reward {}",
}
SAMPLES = 3
LONG = 8
"""Audits above which a section is long."""


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample; the part of a long text that is folded stands beside it."""

    prompt: tuple[str, str]
    response: tuple[str, str]
    other: tuple[str, str] | None
    note: str
    scores: str


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A row of a section's table."""

    name: str
    verdict: Verdict
    question: str
    finding: str
    value: str
    limits: str
    why: str
    cases: str
    samples: list[ShownSample]


@dataclass(frozen=True, slots=True)
class AuditSection:
    """All audits of one subject by group, the worst first in each. Where the section is long, those
    that pass are folded."""

    title: str
    verdict: Verdict
    broken: BrokenTable | None
    groups: list[tuple[str, list[AuditLine]]]
    notes: list[str]
    is_long: bool


def audit_sections(documents: Sequence[AuditDocument]) -> list[AuditSection]:
    """The sections of the page, in the order of the documents."""
    return [
        AuditSection(
            TITLES[document.kind].format(visible(document.subject)),
            worst_verdict(document.audits),
            broken_table(document),
            [(visible(g), [_line(audit) for audit in audits]) for g, audits in document.groups()],
            [visible(note) for note in document.notes],
            len(document.audits) > LONG,
        )
        for document in documents
    ]


def audit_findings(documents: Sequence[AuditDocument]) -> list[Finding]:
    """A warning for each audit that failed, a note on those that are undecided, and what training
    broke."""
    results = []
    for document in documents:
        title = TITLES[document.kind].format(visible(document.subject))
        results += [
            Finding("warning", f"{title}: {visible(audit.finding)}")
            for audit in document.audits
            if audit.verdict == "fail"
        ]
        undecided = [visible(a.name) for a in document.audits if a.verdict == "undecided"]
        if undecided:
            text = f"{title}: the data do not decide {join_names(undecided)}."
            results.append(Finding("note", text))
    return [*results, *broken_findings(documents)]


def failed_audits(documents: Sequence[AuditDocument], model: str) -> list[str]:
    """The names of the audits of a model that failed."""
    return [
        visible(audit.name)
        for document in documents
        if document.kind != "probe" and visible(document.subject) == model
        for audit in document.audits
        if audit.verdict == "fail"
    ]


def _line(audit: Audit) -> AuditLine:
    return AuditLine(
        visible(audit.name),
        audit.verdict,
        visible(audit.question),
        visible(audit.finding),
        format_value(audit.value, audit.unit) if audit.count else "",
        limits(audit),
        visible(audit.threshold.why) if audit.threshold else "",
        _cases(audit),
        [_sample(sample) for sample in audit.samples[:SAMPLES]],
    )


def _cases(audit: Audit) -> str:
    if not audit.count:
        return ""
    text = f"{audit.count:,} {audit.cases}"
    return f"{text}; about {audit.needed:,} more would decide" if audit.needed else text


def _sample(sample: AuditSample) -> ShownSample:
    scores = ", ".join(
        f"{visible(name.replace('_', ' '))} {format_number(value, 2)}"
        for name, value in sample.scores.items()
    )
    return ShownSample(
        split_text(visible(sample.prompt)),
        split_text(visible(sample.response)),
        None if sample.other is None else split_text(visible(sample.other)),
        visible(sample.note),
        scores,
    )
