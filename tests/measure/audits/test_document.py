"""probe.json, audit.json and redteam.json: what they hold, and their text."""

import json

from accord.measure.audits.audit import Audit, Threshold, make_audit
from accord.measure.audits.document import AuditDocument, format_value
from accord.measure.statistics import NO_DATA, Interval

LIMIT = Threshold(0.05, 0.10, "more is seen by users")


def _audit(name: str, group: str, value: Interval) -> Audit:
    return make_audit(
        name,
        group=group,
        question="Is it so?",
        finding=f"{name} is found.",
        value=value,
        threshold=LIMIT,
        count=50,
        unit="share",
    )


DOCUMENT = AuditDocument(
    "audit",
    "runs/dpo",
    (
        _audit("calm", "diversity", Interval(0.01, 0.0, 0.02)),
        _audit("length", "reward hacking", Interval(0.06, 0.02, 0.14)),
        _audit("collapse", "diversity", Interval(0.3, 0.2, 0.4)),
    ),
    notes=("No reward was given.",),
)


def test_text_gives_each_group_once_with_the_worst_first() -> None:
    text = DOCUMENT.text()
    lines = text.splitlines()
    assert lines[0] == "runs/dpo: FAIL (1 fail, 1 undecided, 1 pass)"
    names = [line.split()[-4].rstrip(":") for line in lines if line.endswith("is found.")]
    assert names == ["collapse", "calm", "length"]
    assert [line for line in lines if line and not line.startswith(" ")][1:] == [
        "Diversity",
        "Reward hacking",
        "No reward was given.",
    ]


def test_text_gives_value_limits_and_reason_of_what_does_not_pass() -> None:
    text = DOCUMENT.text()
    assert (
        "30% (20% to 40%) over 50 prompts; warned of at more than 5%, failed at more than 10%: "
        "more is seen by users" in text
    )
    assert "About 150 more prompts would decide, if the mean stays as it is." in text
    assert text.count("warned of") == 2  # not of the audit that passes


def test_json_holds_the_worst_verdict_and_every_audit() -> None:
    content = json.loads(json.dumps(DOCUMENT.to_json(), allow_nan=False))
    assert (content["kind"], content["subject"], content["verdict"]) == (
        "audit",
        "runs/dpo",
        "fail",
    )
    assert [audit["name"] for audit in content["audits"]] == ["calm", "length", "collapse"]
    assert content["notes"] == ["No reward was given."]


def test_without_an_audit_nothing_is_known() -> None:
    empty = AuditDocument("probe", "a reward", ())
    assert empty.text() == "a reward: UNDECIDED (no audits)"
    assert empty.to_json()["verdict"] == "undecided"


def test_values_in_their_units() -> None:
    assert format_value(Interval(0.125, 0.1, 0.15), "share") == "12.5% (10% to 15%)"
    assert format_value(Interval(1.5, None, 2.0), "nats") == "1.5 nats (open to 2 nats)"
    assert format_value(Interval(3.0), "words") == "3 words"
    assert format_value(NO_DATA, "share") == "unknown"
