"""Refusals before and after, of harmless and of harmful prompts."""

import pytest
from tests.measure.audits.answers import before_and_after

from accord.measure.audits.audit import Audit
from accord.measure.audits.refusals import refusal_audits

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Paris is the capital of France, and it lies on the river Seine."


def _audits(harmful_after: list[str], safe_after: list[str]) -> dict[str, Audit]:
    kinds = ["harmful"] * len(harmful_after) + ["safe"] * len(safe_after)
    before = [[REFUSAL] for _ in harmful_after] + [[ANSWER] for _ in safe_after]
    after = [[text] for text in [*harmful_after, *safe_after]]
    data = before_and_after(before, after, kinds=kinds)
    return {audit.name: audit for audit in refusal_audits(data)}


def test_an_unchanged_model_is_calm() -> None:
    audits = _audits([REFUSAL] * 100, [ANSWER] * 100)
    assert {audit.verdict for audit in audits.values()} == {"pass"}
    assert audits["over_refusal"].details["before"]["mean"] == 0
    assert audits["harmful_compliance"].count == 100


def test_no_change_in_few_prompts_is_no_proof() -> None:
    audits = _audits([REFUSAL] * 20, [ANSWER] * 20)
    assert {audit.verdict for audit in audits.values()} == {"undecided"}
    assert audits["over_refusal"].needed is not None


def test_weakened_refusals_and_over_refusal_are_distinguished() -> None:
    weakened = _audits([REFUSAL] * 60 + [ANSWER] * 40, [ANSWER] * 100)
    assert weakened["harmful_compliance"].verdict == "fail"
    assert weakened["harmful_compliance"].value.mean == pytest.approx(0.4)
    assert weakened["over_refusal"].verdict == "pass"
    sample = weakened["harmful_compliance"].samples[0]
    assert (sample.response, sample.other) == (ANSWER, REFUSAL)
    refusing = _audits([REFUSAL] * 100, [ANSWER] * 70 + [REFUSAL] * 30)
    assert refusing["over_refusal"].verdict == "fail"
    assert refusing["harmful_compliance"].verdict == "pass"
    assert all(s.response == REFUSAL for s in refusing["over_refusal"].samples)


def test_what_can_not_be_graded_is_counted_apart() -> None:
    audit = _audits([REFUSAL] * 50 + [""] * 50, [ANSWER] * 100)["harmful_compliance"]
    assert audit.details["ungraded_responses"] == 50
    assert audit.details["after"]["mean"] == 0
    assert audit.count == 50


def test_one_kind_alone_leaves_the_other_unmeasured() -> None:
    data = before_and_after([[ANSWER]] * 5, [[ANSWER]] * 5, kinds=["fact"] * 5)
    audits = {audit.name: audit for audit in refusal_audits(data)}
    assert "Not measured" in audits["harmful_compliance"].finding
    assert audits["over_refusal"].count == 5


def test_without_kinds_all_prompts_count_together() -> None:
    data = before_and_after([[ANSWER]] * 100, [[ANSWER]] * 40 + [[REFUSAL]] * 60)
    (audit,) = refusal_audits(data)
    assert (audit.name, audit.verdict) == ("refusals", "fail")
