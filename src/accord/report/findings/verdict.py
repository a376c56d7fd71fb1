"""The verdict in sentences: which model is best, by how much, and which warnings there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.measure.audits.document import AuditDocument
from accord.measure.ratings.notes import join_names
from accord.report.audits import audit_findings, failed_audits
from accord.report.findings.circular import circular_reason
from accord.report.findings.finding import LEVELS, Finding
from accord.report.findings.findings import findings
from accord.report.findings.ratings import rating_findings
from accord.report.formatting import (
    format_duration,
    format_interval,
    format_number,
    format_percent,
    visible,
)
from accord.report.tables.rows import (
    Criterion,
    Row,
    best_criterion,
    difference,
    differs_significantly,
    has_value,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The headline, a sentence that supports it, what the best model costs, and the findings,
    warnings first."""

    headline: str
    support: str
    findings: tuple[Finding, ...]
    cost: str = ""


def verdict(
    results: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    unlearned: Mapping[str, str] | None = None,
    audits: Sequence[AuditDocument] = (),
) -> Verdict:
    """The verdict on results.json, with details from evaluation.json where there is one.

    `unlearned` has the remarks on trainings that have not learned the order of held-out pairs.
    A model with a failed audit is not called the best without it.
    A ceiling, chosen by the true reward itself, is left out: nobody could use it as a model.
    """
    rows = [
        {**row, "model": visible(row["model"])}
        for row in results["models"]
        if not row.get("ceiling")
    ]
    evaluated = (evaluation or {}).get("models", [])
    details = {visible(row["model"]): row for row in evaluated}
    judges = _visible_judges(results.get("judges") or {})
    headline, support = _headline(rows, judges, list(unlearned or {}))
    best = _best_row(rows)
    failed = failed_audits(audits, best["model"]) if best is not None else []
    if best is not None and failed:
        headline = f"{headline.removesuffix('.')}; {best['model']} fails {join_names(failed)}."
    warnings = [Finding("warning", f"{n}: {text}") for n, text in (unlearned or {}).items()]
    warnings += audit_findings(audits)
    others = [
        *findings(rows, details, results.get("reward_model"), judges),
        *rating_findings(results.get("ratings")),
    ]
    ordered = sorted((*warnings, *others), key=lambda finding: LEVELS.index(finding.level))
    return Verdict(headline, support, tuple(ordered), _cost(rows, best))


def _best_row(rows: Sequence[Row]) -> Row | None:
    """The model that comes first by the measure that ranks them."""
    criterion = best_criterion(rows)
    if criterion is None:
        return None
    return max((r for r in rows if has_value(r, criterion.key)), key=lambda r: r[criterion.key])


def _cost(rows: Sequence[Row], best: Row | None) -> str:
    """What the best model costs, against the first: training, distance, length, over-refusal."""
    if best is None:
        return ""
    first = next((row for row in rows if row is not best), None)
    facts = []
    if has_value(best, "seconds"):
        facts.append(f"its training took {format_duration(best['seconds'])}")
    if has_value(best, "kl"):
        facts.append(f"its KL is {format_number(best['kl'], 1)} nats a response")
    if first is not None and best.get("mean_length") and first.get("mean_length"):
        change = best["mean_length"] / first["mean_length"] - 1
        facts.append(f"its answers are {_change(change)} than those of {first['model']}")
    if has_value(best, "refusal_safe"):
        facts.append(f"it refuses {format_percent(best['refusal_safe'])} of the safe prompts")
    return f"The cost: {join_names(facts)}." if facts else ""


def _change(share: float) -> str:
    if abs(share) < 0.005:
        return "no longer or shorter"
    return f"{format_percent(abs(share))} {'longer' if share > 0 else 'shorter'}"


def _visible_judges(judges: Mapping[str, Any]) -> dict[str, Any]:
    """`judges` with the models' names as the rows have them."""
    shown = dict(judges)
    for key in ("ratings", "scores"):
        if judges.get(key):
            influences = {visible(n): i for n, i in judges[key]["influences"].items()}
            shown[key] = {"name": visible(judges[key]["name"]), "influences": influences}
    return shown


def _headline(
    rows: Sequence[Row], judges: Mapping[str, Any], unlearned: Sequence[str]
) -> tuple[str, str]:
    criterion = best_criterion(rows)
    if criterion is None:
        return _unranked(rows, unlearned)
    key, name, digits = criterion
    ranked = sorted((row for row in rows if has_value(row, key)), key=lambda row: -row[key])
    best, rest = ranked[0], ranked[1:]
    tied = [row["model"] for row in rest if not differs_significantly(best, row, key)]
    if len(tied) == len(rest):
        headline = "The data do not show which model is best."
    elif tied:
        headline = (
            f"{best['model']} leads, but its lead over {join_names(tied)} is not significant."
        )
    else:
        headline = _winner(best["model"], key, judges)
    first = next(row for row in rows if has_value(row, key))
    compared = [rest[0]] if first in (best, rest[0]) else [rest[0], first]
    text = format_interval(best.get(f"{key}_low"), best.get(f"{key}_high"), digits)
    support = f"Its {name} is {format_number(best[key], digits)}{f' ({text})' if text else ''}: "
    if len(tied) == len(rest):
        support = f"{best['model']} comes first, but its lead is not significant. {support}"
    leads = " and ".join(_lead(best, row, criterion) for row in compared)
    return headline, f"{support}{leads}."


def _winner(model: str, key: str, judges: Mapping[str, Any]) -> str:
    """The headline where one model is ahead of all others: that it is the best, unless only a judge
    says so."""
    judge = judges.get("ratings") if key == "elo" else None
    if not judge:
        return f"{model} is the best model."
    reason = circular_reason(judges, model)
    if reason is None:
        return f"{model} is rated best by {judge['name']}."
    return f"{model} is rated best, but by {judge['name']}, {reason}."


def _lead(best: Row, row: Row, criterion: Criterion) -> str:
    lead = difference(best, row, criterion.key)
    text = format_interval(lead.low, lead.high, criterion.digits)
    mean = format_number(lead.mean, criterion.digits)
    return f"{mean}{f' ({text})' if text else ''} above {row['model']}"


def _unranked(rows: Sequence[Row], unlearned: Sequence[str]) -> tuple[str, str]:
    if not rows:
        return "No model was measured.", "The stages of the run are listed below."
    if unlearned:
        return (
            f"The held-out data do not show that {join_names(unlearned)} learned the preferences.",
            "No true reward or rating is known, so no measure ranks the models.",
        )
    if len(rows) == 1:
        return f"{rows[0]['model']} was measured.", "There is no other model to compare it with."
    return (
        "The models were measured, but no measure ranks them.",
        "No true reward or rating is known.",
    )
