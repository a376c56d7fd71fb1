"""Verdicts of audits: what an interval shows of a threshold, and what it does not."""

import json

import pytest

from accord.measure.audits.audit import (
    Audit,
    AuditSample,
    Threshold,
    failing,
    make_audit,
    worst_verdict,
)
from accord.measure.statistics import NO_DATA, Interval, proportion_interval

AT_MOST_A_TENTH = Threshold(0.05, 0.10, "an example")
AT_LEAST_HALF = Threshold(0.6, 0.5, "an example", bad="low")


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.20, 0.11, 0.30), "fail"),
        (Interval(0.20, 0.10, 0.30), "undecided"),
        (Interval(0.06, 0.01, 0.11), "undecided"),
        (Interval(0.06, 0.01, 0.10), "warn"),
        (Interval(0.05, 0.01, 0.09), "pass"),
        (Interval(0.01), "undecided"),
        (Interval(0.2, 0.15, None), "undecided"),
        (NO_DATA, "undecided"),
    ],
)
def test_a_high_value_is_bad(interval: Interval, verdict: str) -> None:
    assert AT_MOST_A_TENTH.verdict(interval) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.40, 0.30, 0.49), "fail"),
        (Interval(0.40, 0.30, 0.51), "undecided"),
        (Interval(0.70, 0.49, 0.9), "undecided"),
        (Interval(0.55, 0.50, 0.60), "warn"),
        (Interval(0.60, 0.51, 0.70), "pass"),
    ],
)
def test_a_low_value_is_bad(interval: Interval, verdict: str) -> None:
    assert AT_LEAST_HALF.verdict(interval) == verdict


def test_nothing_seen_in_twenty_is_no_pass() -> None:
    """0 of 20 may be as much as 17%: it doesn't show at most a tenth, and 0 of 100 does."""
    assert AT_MOST_A_TENTH.verdict(proportion_interval(0, 20)) == "undecided"
    assert AT_MOST_A_TENTH.verdict(proportion_interval(0, 100)) == "pass"


def test_the_warning_lies_before_the_failure() -> None:
    with pytest.raises(ValueError, match="beyond"):
        Threshold(0.2, 0.1, "an example")
    with pytest.raises(ValueError, match="beyond"):
        Threshold(0.4, 0.5, "an example", bad="low")


def test_more_cases_shrink_the_interval_to_the_threshold() -> None:
    # The bound lies 0.08 from the mean and the threshold 0.04: four times the cases are needed.
    value = Interval(0.06, 0.02, 0.14)
    assert AT_MOST_A_TENTH.more_needed(value, 50) == 150
    # A mean beyond the threshold is decided by its lower bound.
    assert AT_MOST_A_TENTH.more_needed(Interval(0.14, 0.06, 0.30), 50) == 150
    assert AT_MOST_A_TENTH.more_needed(Interval(0.20, 0.15, 0.25), 50) == 0
    assert AT_MOST_A_TENTH.more_needed(Interval(0.10, 0.05, 0.15), 50) is None
    assert AT_MOST_A_TENTH.more_needed(NO_DATA, 0) is None


def _audit(name: str, value: Interval) -> Audit:
    return make_audit(
        name,
        group="examples",
        question="Is it so?",
        finding="It is.",
        value=value,
        threshold=AT_MOST_A_TENTH,
        count=50,
        samples=[AuditSample("p", "r", scores={"score": float("nan")})],
    )


PASSED = _audit("passed", Interval(0.01, 0.0, 0.02))
WARNED = _audit("warned", Interval(0.06, 0.01, 0.09))
UNDECIDED = _audit("unclear", Interval(0.06, 0.02, 0.14))
FAILED = _audit("failed", Interval(0.2, 0.15, 0.25))


def test_needed_is_of_the_undecided_alone() -> None:
    assert [a.needed for a in (PASSED, WARNED, UNDECIDED, FAILED)] == [None, None, 150, None]


def test_the_worst_verdict_counts() -> None:
    assert worst_verdict([PASSED, WARNED]) == "warn"
    assert worst_verdict([PASSED, UNDECIDED, WARNED]) == "undecided"
    assert worst_verdict([UNDECIDED, FAILED, PASSED]) == "fail"
    assert worst_verdict([PASSED]) == "pass"
    assert worst_verdict([]) == "undecided"


def test_a_gate_fails_on_verdicts_and_on_names() -> None:
    audits = [PASSED, WARNED, UNDECIDED, FAILED]
    assert failing(audits, ["fail"]) == [FAILED]
    assert failing(audits, ["fail", "warn"]) == [WARNED, FAILED]
    assert failing(audits, ["unclear", "passed"]) == [UNDECIDED]
    assert failing(audits, []) == []


def test_json_has_null_for_what_is_unknown() -> None:
    row = json.loads(json.dumps(FAILED.to_json(), allow_nan=False))
    assert row["value"] == {"mean": 0.2, "low": 0.15, "high": 0.25}
    assert row["threshold"] == {"warn": 0.05, "fail": 0.1, "bad": "high", "why": "an example"}
    assert row["samples"][0]["scores"] == {"score": None}
    assert row["verdict"] == "fail"
    assert row["needed"] is None
