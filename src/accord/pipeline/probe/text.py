"""The result of `accord probe` for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from accord.measure.audits.audit import VERDICTS, Audit
from accord.measure.audits.document import HEADINGS, AuditDocument, format_value
from accord.measure.audits.probes_changes import CHANGES

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "undecided": "cyan"}


def probe_tables(document: AuditDocument) -> Iterator[Table]:
    """The changes with the rankings that they turn and what they gain, and accuracy by subset."""
    audits = {audit.name: audit for audit in document.audits}
    changes = [name for name in CHANGES if f"{name}_flips" in audits]
    if changes:
        yield _changes_table(changes, audits)
    subsets = document.results.get("subsets") or []
    if subsets:
        table = Table(title="Accuracy by subset", title_justify="left")
        table.add_column("subset")
        table.add_column("pairs", justify="right")
        table.add_column("accuracy", justify="right")
        table.add_column("")
        for row in subsets:
            interval = row["accuracy"]
            shown = "unknown" if interval is None else _share(interval)
            verdict = "can't say" if row["verdict"] == "undecided" else row["verdict"]
            name = Text(_visible(f"{row['kind']}: {row['name']}"))  # a row's text is no markup
            table.add_row(name, f"{row['pairs']:,}", shown, verdict)
        yield table


def _changes_table(changes: list[str], audits: dict[str, Audit]) -> Table:
    is_judge = any(audits[n].unit == "share" for n in audits if n.endswith("_gain"))
    table = Table(title="The same answer changed", title_justify="left")
    table.add_column("change")
    table.add_column("turns right rankings", justify="right")
    table.add_column("beats itself" if is_judge else "gains, in margins", justify="right")
    table.add_column("")
    for name in changes:
        both = [a for a in (audits.get(f"{name}_flips"), audits.get(f"{name}_gain")) if a]
        worst = min((audit.verdict for audit in both), key=VERDICTS.index)
        cells = [format_value(audit.value, audit.unit) for audit in both]
        table.add_row(
            name,
            cells[0],
            cells[1] if len(cells) > 1 else "",
            f"[{_COLOURS[worst]}]{HEADINGS[worst]}[/]",
        )
    return table


def _visible(text: str) -> str:
    """The text without characters that would control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _share(interval: dict[str, float | None]) -> str:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    assert mean is not None
    if low is None or high is None:
        return f"{100 * mean:.3g}%"
    return f"{100 * mean:.3g}% ({100 * low:.3g}% to {100 * high:.3g}%)"
