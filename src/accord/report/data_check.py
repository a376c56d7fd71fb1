"""The page of `accord data check`: all findings on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from accord.report.formatting import format_share, split_text, visible
from accord.report.rendering import TEMPLATES
from accord.runs.atomic import write_text_atomic

LEVELS = {"error": "Error", "warning": "Warning", "note": "Note"}
_LIMIT = 600  # characters of a text before the rest is folded


def write_page(
    path: str | Path, check: Mapping[str, Any], texts: Mapping[int, Sequence[tuple[str, str]]]
) -> None:
    """Write the page of a check (`DataCheck.to_json`) to `path`, with the texts of its rows.

    The page loads nothing and runs no script. Raises StorageError when the disk fails.
    """
    write_text_atomic(path, render_page(check, texts))


def render_page(check: Mapping[str, Any], texts: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    """The page as text; the same check gives the same bytes."""
    findings = check["findings"]
    return TEMPLATES.get_template("data_check.html.j2").render(
        check=check,
        name=visible(Path(check["path"].rstrip("/")).name or check["path"]),
        headline=_headline(findings),
        findings=findings,
        levels=LEVELS,
        texts=texts,
        visible=visible,
        prose=_prose,
        percent=format_share,
        bar=_bar,
        fold=lambda text: split_text(visible(text), _LIMIT, 12),
        location=_location,
    )


def _headline(findings: Sequence[Mapping[str, Any]]) -> str:
    counts = [
        f"{n:,} {level}{'' if n == 1 else 's'}"
        for level in ("error", "warning")
        if (n := sum(finding["level"] == level for finding in findings))
    ]
    return " and ".join(counts) or "Nothing wrong was found"


def _prose(text: str) -> Markup:
    """A text in which what stands between backticks is code; everything is escaped."""
    parts = visible(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its second one
        return escape("`".join(parts))
    pieces = (Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))
    return Markup("").join(pieces)


def _bar(rate: Mapping[str, float]) -> dict[str, str]:
    """Where the interval and the mean lie on a bar from 0 to 100%."""
    low, high = rate["low"], rate["high"]
    return {
        "left": f"{100 * low:.2f}%",
        "width": f"max(3px, {100 * (high - low):.2f}%)",
        "mean": f"{100 * rate['mean']:.2f}%",
    }


def _location(row: Mapping[str, Any]) -> str:
    name = visible(Path(row["path"]).name if "://" not in row["path"] else row["path"])
    return name if row["line"] is None else f"{name}:{row['line']}"
