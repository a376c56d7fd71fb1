"""Findings as text in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from accord.pipeline.checks.findings import DataFinding, format_rate
from accord.pipeline.checks.kinds import KINDS
from accord.pipeline.checks.result import DataCheck

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}


def terminal_lines(check: DataCheck, shown: int) -> Iterator[Text]:
    """The findings, each with at most `shown` rows. Texts of rows are escaped."""
    for finding in check.findings:
        yield Text()
        yield from _finding_lines(finding, shown)
    if not (check.findings or check.clean):
        return
    yield Text()
    for remark in check.remarks:
        yield Text(remark, "dim")
    if check.clean:
        yield Text("Without a finding: " + ", ".join(KINDS[k].title for k in check.clean) + ".")
    by_reason: dict[str, list[str]] = {}
    for name, reason in check.unchecked.items():
        by_reason.setdefault(reason, []).append(KINDS[name].title)
    for reason, titles in by_reason.items():
        yield Text(f"Not checked: {', '.join(titles)} ({reason}).", "dim")
    counts = [
        f"{n:,} {level}{'' if n == 1 else 's'}"
        for level in ("error", "warning", "note")
        if (n := check.count(level))
    ]
    yield Text(f"{', '.join(counts) or 'Nothing was found'}.", "bold")


def _finding_lines(finding: DataFinding, shown: int) -> Iterator[Text]:
    kind = KINDS[finding.kind]
    yield Text.assemble(
        (finding.level, STYLES[finding.level]),
        f" {finding.kind}: {kind.title}, ",
        (format_rate(finding), "bold"),
    )
    yield Text(f"  {escape(' '.join(filter(None, (kind.meaning, finding.remark))))}")
    if finding.rows:
        rows = [
            f"{row.source.without_folder()}{f' ({row.detail})' if row.detail else ''}"
            for row in finding.rows.first(shown)
        ]
        more = len(finding.rows) - len(rows)
        rows += [f"and {more:,} more"] if more > 0 else []
        yield Text(f"  {escape(', '.join(rows))}", "cyan")
    yield Text(f"  {kind.remedy}", "dim")
    if finding.command:
        yield Text(f"  {escape(finding.command)}", "green")


def escape(text: str) -> str:
    """The text with an escape sequence for each character that a terminal would execute."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
