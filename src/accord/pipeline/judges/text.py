"""The report on a judge's check, as people read it in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from accord.measure.agreement.coefficients import Coefficient
from accord.measure.statistics import Interval
from accord.pipeline.judges.check import JudgeReport

HEADINGS = {"pass": "PASS", "fail": "FAIL", "unknown": "NOT DECIDED"}
WIDTH = 14


def format_report(report: JudgeReport) -> str:
    """The result with its reason, then what it rests on, a line each."""
    proof = report.proof
    heading = f"{report.judge} against people in {report.rows.name}"
    lines = [heading, "", f"{HEADINGS[proof.result]}: {proof.reason}", ""]
    lines += [f"  {name:<{WIDTH}}{text}" for name, text in _lines(report)]
    return "\n".join(lines)


def _lines(report: JudgeReport) -> Iterator[tuple[str, str]]:
    proof = report.proof
    undecided = proof.rows - proof.decided
    yield (
        "pairs",
        f"{proof.rows:,} judged in both orders: {proof.decided:,} labelled, {undecided:,} undecided"
        f" (the orders disagree); {proof.missing:,} without a verdict",
    )
    if report.rows.dropped:
        yield "rows", report.rows.summary()
    if report.skipped:
        yield "left out", "; ".join(f"{n:,} {reason}" for reason, n in report.skipped.items())
    yield "kappa", f"{_coefficient(proof.kappa)}; the best constant answer has 0"
    if proof.decided:
        yield (
            "accuracy",
            f"{_share(proof.accuracy)}; always {proof.constant_answer} is right in "
            f"{proof.constant_accuracy:.0%}",
        )
    yield "two orders", f"with each other: {_coefficient(proof.order_kappa)}"
    if math.isfinite(report.repeated.mean):
        yield "asked again", f"the same verdict in {_share(report.repeated)}"
    for name, preference in proof.preferences.items():
        if preference.rows or name != "own model":
            yield name, f"{preference.finding}: {preference.sentence}"
    if report.agreement is not None:
        defined = [c for c in report.agreement.coefficients if c.value is not None]
        yield "people", "; ".join(str(coefficient) for coefficient in defined)
    if report.usage:
        usage = report.usage
        yield (
            "cost",
            f"{usage.get('calls', 0):,} calls, {usage.get('prompt_tokens', 0):,} tokens of prompts "
            f"and {usage.get('answer_tokens', 0):,} of answers; {usage.get('kept', 0):,} answers "
            f"from the cache",
        )
    if report.fingerprint is not None:
        yield "fingerprint", str(report.fingerprint["digest"])[:16]


def _coefficient(coefficient: Coefficient) -> str:
    if coefficient.value is None:
        return f"not defined, because {coefficient.undefined}"
    low, high = coefficient.low, coefficient.high
    span = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    note = f"; {coefficient.note}" if coefficient.note else ""
    return f"{coefficient.value:.2f}{span}{note}"


def _share(share: Interval) -> str:
    if share.low is None or share.high is None:
        return f"{share.mean:.0%}"
    return f"{share.mean:.0%} ({share.low:.0%} to {share.high:.0%})"
