"""Audits of tasks, of held-out loss and of yes/no questions, from what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accord.measure.audits.broken import (
    HeldOutRow,
    TaskOutcome,
    held_out_audit,
    mcnemar_p,
    task_audit,
)
from accord.measure.audits.yes_no import YesNoScores, questions_audit
from accord.measure.statistics import clustered_interval, clustered_ratio


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [  # statsmodels 0.14, mcnemar(exact=True)
        (0, 3, 0.25),
        (10, 3, 0.09228515625),
        (5, 5, 1.0),
        (12, 0, 0.00048828125),
        (1, 9, 0.021484375),
        (30, 12, 0.007915897334896727),
        (0, 0, 1.0),
    ],
)
def test_mcnemar(lost: int, won: int, p: float) -> None:
    assert mcnemar_p(lost, won) == pytest.approx(p, rel=1e-12)
    assert mcnemar_p(won, lost) == pytest.approx(p, rel=1e-12)


def test_mcnemar_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="no counts"):
        mcnemar_p(-1, 2)


def _task(before: list[bool], after: list[bool]) -> TaskOutcome:
    n = len(before)
    texts = [[f"{side} {i}" for i in range(n)] for side in ("prompt", "accepted", "old", "new")]
    return TaskOutcome("sums", *texts, before, after)


def test_a_task_that_was_lost_fails() -> None:
    before, after = [True] * 90 + [False] * 10, [False] * 30 + [True] * 62 + [False] * 8
    audit = task_audit(_task(before, after), details={"rule": "exact"}, lineage={"dataset": "f"})
    assert (audit.name, audit.verdict, audit.count) == ("task_sums", "fail", 100)
    assert audit.value.mean == pytest.approx(-0.28)
    assert audit.details["became_wrong"] == 30
    assert audit.details["became_right"] == 2
    # 2·(1 + 32 + 496)/2³², of at most 2 in 32 changes
    assert audit.details["mcnemar_p"] == pytest.approx(2 * 529 / 2**32, rel=1e-9)
    assert audit.details["before"]["mean"] == 0.9
    assert audit.details["before"]["low"] == pytest.approx(0.823777, abs=1e-6)  # exact: 90 of 100
    assert audit.details["after"]["mean"] == 0.62
    assert audit.details["rule"] == "exact"
    assert audit.lineage == {"dataset": "f"}
    sample = audit.samples[0]
    assert (sample.prompt, sample.response, sample.other) == ("prompt 0", "new 0", "old 0")
    assert "accepted 0" in sample.note
    assert len(audit.samples) == 5


def test_a_task_with_little_change() -> None:
    before = [True] * 900 + [False] * 100
    assert task_audit(_task(before, before)).verdict == "pass"
    warned = [False] * 25 + before[25:]
    assert task_audit(_task(before, warned)).verdict == "warn"  # a drop of 2.5 points
    assert task_audit(_task(before[880:920], before[880:920])).verdict == "undecided"  # 40 rows


def test_a_task_that_is_too_hard_shows_nothing() -> None:
    before = [True] * 40 + [False] * 960
    audit = task_audit(_task(before, before))
    assert audit.verdict == "undecided"
    assert audit.needed is None
    assert "too few" in audit.finding
    assert task_audit(_task([True] * 60 + [False] * 940, [False] * 1000)).verdict == "undecided"


def test_the_ratio_of_sums_is_the_mean_of_all_values() -> None:
    rng = np.random.default_rng(0)
    clusters = [rng.normal(size=n) for n in (1, 5, 2, 9, 4)]
    expected = clustered_interval(clusters)
    found = clustered_ratio([c.sum() for c in clusters] + [0.0], [*map(len, clusters), 0])
    assert found.to_json() == pytest.approx(expected.to_json())
    assert clustered_ratio([3.0], [2]).to_json() == {"mean": 1.5, "low": None, "high": None}
    assert math.isnan(clustered_ratio([], []).mean)


def test_a_held_out_loss_that_rose() -> None:
    rng = np.random.default_rng(1)
    tokens = [rng.uniform(1, 3, size=n) for n in rng.integers(3, 30, size=40)]
    rises = [rng.normal(0.5, 0.1, size=len(t)) for t in tokens]
    rows = [
        HeldOutRow(f"p{i}", f"r{i}", len(t), float(t.sum()), float((t + r).sum()))
        for i, (t, r) in enumerate(zip(tokens, rises, strict=True))
    ]
    audit = held_out_audit(rows, lineage={"dataset": "f"})
    assert audit.value.to_json() == pytest.approx(clustered_interval(rises).to_json())
    assert audit.details["before"] == pytest.approx(clustered_interval(tokens).to_json())
    assert audit.details["tokens"] == sum(map(len, tokens))
    assert (audit.verdict, audit.unit, audit.count) == ("fail", "nats", 40)
    worst = max(range(40), key=lambda i: rises[i].mean())
    assert audit.samples[0].prompt == f"p{worst}"
    assert audit.samples[0].scores["before"] == pytest.approx(tokens[worst].mean())
    assert audit.lineage == {"dataset": "f"}


def test_rows_of_one_prompt_are_one_unit() -> None:
    rows = [HeldOutRow("p", "r", 10, 10.0, 11.0 + i, cluster=str(i // 2)) for i in range(6)]
    audit = held_out_audit(rows)
    assert audit.count == 3
    pairs = [[0.1] * 10 + [0.2] * 10, [0.3] * 10 + [0.4] * 10, [0.5] * 10 + [0.6] * 10]
    assert audit.value.to_json() == pytest.approx(clustered_interval(pairs).to_json())


@pytest.mark.parametrize(
    ("rise", "verdict"), [(0.0, "pass"), (0.2, "warn"), (0.5, "fail"), (-0.5, "pass")]
)
def test_limits_of_the_held_out_loss(rise: float, verdict: str) -> None:
    rows = [HeldOutRow("p", "r", 10, 20.0, 20.0 + 10 * rise + 0.01 * (i % 3)) for i in range(30)]
    audit = held_out_audit(rows)
    assert audit.verdict == verdict
    assert bool(audit.samples) == (rise >= 0)  # where the loss rose


def _scores(right: list[bool], answers: list[bool]) -> YesNoScores:
    """Log-probs of a model that prefers the right answer where `right` says so."""
    yes = [-1.0 if r == a else -2.0 for r, a in zip(right, answers, strict=True)]
    return YesNoScores(yes, [-3.0 - y for y in yes])


ANSWERS = [True, False] * 100


def test_knowledge_that_was_lost() -> None:
    before = _scores([True] * 180 + [False] * 20, ANSWERS)
    after = _scores([False] * 40 + [True] * 140 + [False] * 20, ANSWERS)
    questions = [f"q{i}" for i in range(200)]
    audit = questions_audit(questions, ANSWERS, before, after, lineage={"dataset": "f"})
    assert (audit.verdict, audit.value.mean) == ("fail", pytest.approx(-0.2))
    assert audit.details["before"]["mean"] == 0.9
    assert audit.details["better_constant"] == 0.5
    assert audit.details["above_constant_before"]["mean"] == pytest.approx(0.4)
    assert audit.details["yes_before"]["mean"] == 0.5
    assert "whatever" not in audit.finding
    first = audit.samples[0]
    assert (first.prompt, first.response, first.other) == ("q0", "no", "yes")
    assert first.scores == {"log odds of yes before": 1.0, "log odds of yes after": -1.0}
    assert audit.details["probability_of_yes_or_no_before"] == pytest.approx(
        math.exp(-1) + math.exp(-2)
    )
    same = questions_audit(questions, ANSWERS, before, before)
    assert same.verdict == "pass"


def test_a_model_that_always_says_yes_shows_nothing() -> None:
    always = YesNoScores([-1.0] * 200, [-2.0] * 200)
    audit = questions_audit(["q"] * 200, ANSWERS, always, always)
    assert audit.verdict == "undecided"
    assert "before prefers yes whatever is asked. The model after prefers yes" in audit.finding
    assert audit.details["ranking_before"] == 0.5
    # 90% of the answers are yes, and the model is right on 90%: no better than always yes.
    answers = [True] * 180 + [False] * 20
    audit = questions_audit(["q"] * 200, answers, always, always)
    assert audit.details["better_constant"] == 0.9
    assert audit.details["before"]["mean"] == 0.9
    assert audit.verdict == "undecided"
    # It falls from knowing all to always yes.
    audit = questions_audit(["q"] * 200, ANSWERS, _scores([True] * 200, ANSWERS), always)
    assert audit.verdict == "fail"
    assert "The model before" not in audit.finding


def test_all_questions_with_one_answer() -> None:
    always = YesNoScores([-2.0] * 50, [-1.0] * 50)
    audit = questions_audit(["q"] * 50, [False] * 50, always, always)
    assert audit.verdict == "undecided"
    assert "whatever" not in audit.finding  # no is right for all
    assert "always answering no gives 100%" in audit.finding
    assert audit.details["above_constant_before"]["mean"] == 0.0
    assert audit.details["ranking_before"] is None


def test_ties_count_half() -> None:
    tied = YesNoScores([-1.0] * 4, [-1.0] * 4)
    assert tied.chose_yes == [0.5] * 4
    audit = questions_audit(["q"] * 4, [True, True, True, False], tied, tied)
    assert audit.details["before"]["mean"] == 0.5


def test_the_ranking_by_log_odds() -> None:
    # scikit-learn 1.7, roc_auc_score([1, 1, 0, 0, 1], [2, .5, .5, -1, -2])
    scores = YesNoScores([2.0, 0.5, 0.5, -1.0, -2.0], [0.0] * 5)
    assert scores.ranking([True, True, False, False, True]) == pytest.approx(0.5833333333333333)
    assert math.isnan(scores.ranking([True] * 5))
