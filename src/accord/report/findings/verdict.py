"""The verdict in plain words: which model is best, by how much, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.report.findings.findings import Finding, findings
from accord.report.plain import listed, number, span, visible
from accord.report.tables.rows import Row, best_measure, gap, known, told_apart


@dataclass(frozen=True, slots=True)
class Verdict:
    """The headline, a sentence that supports it, and the findings, warnings first."""

    headline: str
    support: str
    findings: tuple[Finding, ...]


def verdict(results: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> Verdict:
    """The verdict on results.json, with evaluation.json's finer numbers where there are any.

    A ceiling, chosen by the truth itself, is no model that anyone could use, and is left out.
    """
    rows = [
        {**row, "model": visible(row["model"])}
        for row in results["models"]
        if not row.get("ceiling")
    ]
    measured = (evaluation or {}).get("models", [])
    details = {visible(row["model"]): row for row in measured}
    headline, support = _headline(rows)
    return Verdict(headline, support, findings(rows, details, results.get("reward_model")))


def _headline(rows: Sequence[Row]) -> tuple[str, str]:
    measure = best_measure(rows)
    if measure is None:
        return _unranked(rows)
    key, name, digits = measure
    ranked = sorted((row for row in rows if known(row, key)), key=lambda row: -row[key])
    best, others = ranked[0], ranked[1:]
    tied = [row["model"] for row in others if not told_apart(best, row, key)]
    if len(tied) == len(others):
        headline = "The data do not tell which model is best."
    elif tied:
        headline = f"{best['model']} leads, though the data do not tell it from {listed(tied)}."
    else:
        headline = f"{best['model']} is the best model."
    first = next(row for row in rows if known(row, key))
    compared = [others[0]] if first in (best, others[0]) else [others[0], first]
    text = span(best.get(f"{key}_low"), best.get(f"{key}_high"), digits)
    support = f"Its {name} is {number(best[key], digits)}{f' ({text})' if text else ''}: "
    if len(tied) == len(others):
        support = f"{best['model']} comes first by chance or merit. {support}"
    return headline, support + " and ".join(
        _above(best, row, key, digits) for row in compared
    ) + "."


def _above(best: Row, row: Row, key: str, digits: int) -> str:
    between = gap(best, row, key)
    text = span(between.low, between.high, digits)
    return f"{number(between.mean, digits)}{f' ({text})' if text else ''} above {row['model']}"


def _unranked(rows: Sequence[Row]) -> tuple[str, str]:
    if not rows:
        return "No model was measured.", "What was run is told below."
    if len(rows) == 1:
        return f"{rows[0]['model']} was measured.", "There is no other model to compare it with."
    return "The models were measured, but nothing ranks them.", "No true reward or rating is known."
