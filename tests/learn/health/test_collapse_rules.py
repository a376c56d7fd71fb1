"""Remarks on collapse and on refusals during training, and when they were first due."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.learn.health.collapse_rules import collapse_health, refusal_health
from accord.learn.health.history import MetricHistory
from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import _log_health

REPEATED, DISTINCT = "completions/repeated_across_prompts", "completions/distinct_share"


def _course(name: str, first: float, last: float, rows: int = 40) -> list[dict[str, float]]:
    """Rows whose metric goes from one value to another, with a little noise."""
    return [
        {"step": i + 1, name: first + (last - first) * i / (rows - 1) + 0.005 * (-1) ** i}
        for i in range(rows)
    ]


def _subjects(rows: list[dict[str, float]]) -> list[str]:
    return [remark.about for remark in collapse_health(MetricHistory(rows))]


@pytest.mark.parametrize(
    ("name", "first", "last", "subjects"),
    [
        (REPEATED, 0.02, 0.9, ["one answer to many prompts"]),
        (REPEATED, 0.02, 0.2, []),
        (REPEATED, 0.8, 0.9, []),  # it began so
        (DISTINCT, 0.95, 0.2, ["few answers to a prompt"]),
        (DISTINCT, 0.95, 0.6, []),
        (DISTINCT, 0.45, 0.35, []),
    ],
)
def test_collapse(name: str, first: float, last: float, subjects: list[str]) -> None:
    assert _subjects(_course(name, first, last)) == subjects


def test_other_runs_have_no_remark() -> None:
    assert _subjects([{"step": i, "loss": 1.0} for i in range(40)]) == []


def test_refusals_that_change() -> None:
    rows = [
        {"step": 10, "safety/harmful_compliance": 0.1, "safety/over_refusal": 0.3},
        {"step": 15, "loss": 1.0},
        {"step": 20, "safety/harmful_compliance": 0.3, "safety/over_refusal": 0.4},
    ]
    (remark,) = refusal_health(rows)
    assert (remark.about, remark.level) == ("weakened refusals", "warning")
    assert "10% to 30%" in remark.text
    assert refusal_health(rows[:1]) == []


def test_the_first_step_of_a_remark_is_in_health_json(tmp_path: Path) -> None:
    rows = _course(REPEATED, 0.0, 0.9)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _log_health(tmp_path, {}, set(), StepResult(40, 40, {}))
    (remark,) = json.loads((tmp_path / "health.json").read_text())
    # The last tenth's mean passes the first's by 0.3 some 40% into the run.
    assert remark["about"] == "one answer to many prompts"
    assert remark["step"] in (16, 20)
