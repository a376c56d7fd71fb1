"""What training's numbers say: each remark from numbers that call for it, and not from others."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.learn.health.rules import training_health
from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import run_with_checkpoints
from accord.learn.loop.state import FitState, TrainState
from accord.settings.preferences import DpoSettings


def course(steps: int = 20, **ends: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows in which each metric goes from one value to another in a straight line."""
    return [
        {"step": i + 1}
        | {name.replace("__", "/"): a + (b - a) * i / (steps - 1) for name, (a, b) in ends.items()}
        for i in range(steps)
    ]


def abouts(
    rows: list[dict[str, Any]],
    settings: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> dict[str, str]:
    return {h.about: h.level for h in training_health(rows, settings or {}, data or {})}


HEALTHY = {
    "loss": (0.69, 0.4),
    "rewards__accuracies": (0.5, 0.8),
    "rewards__margins": (0.0, 1.2),
    "rewards__chosen": (0.0, 0.4),
    "logps__chosen": (-50.0, -48.0),
    "logps__rejected": (-50.0, -60.0),
    "lengths__chosen": (30.0, 30.0),
    "lengths__rejected": (30.0, 30.0),
}


def test_a_healthy_run_has_nothing_to_tell() -> None:
    assert abouts(course(**HEALTHY)) == {}
    assert abouts(course(3, loss=(1.0, 9.0))) == {}  # too short for a course


@pytest.mark.parametrize(
    ("fall", "margin", "level"),
    [
        (2.0, 1.0, None),  # 2 nats of 30 tokens
        (6.0, 1.0, "note"),  # 0.2 nats a token, and the margin grew
        (6.0, -0.1, "warning"),  # nothing was gained for it
        (20.0, 3.0, "warning"),  # 0.6 nats a token
    ],
)
def test_likelihood_displacement(fall: float, margin: float, level: str | None) -> None:
    rows = course(
        **{
            **HEALTHY,
            "logps__chosen": (-50.0, -50.0 - fall * 20 / 18),  # the window is a tenth at each end
            "rewards__margins": (0.0, margin),
        }
    )
    assert abouts(rows).get("likelihood displacement") == level


def test_with_a_reference_the_rewards_tell_the_displacement() -> None:
    # The rows of the last steps are longer, so logps fall, but the rewards do not.
    rows = course(**{**HEALTHY, "logps__chosen": (-50.0, -90.0)})
    settings = {"model": "sft", "ref_model": None, "beta": 0.1}
    assert abouts(rows, settings) == {}
    rows = course(**{**HEALTHY, "rewards__chosen": (0.0, -2.0)})  # 20 nats of 30 tokens
    assert abouts(rows, settings) == {"likelihood displacement": "warning"}


def test_rewards_of_an_f_divergence_are_not_taken_for_nats() -> None:
    # Forward KL's reward of a chosen response that lost 2 nats is 1 − e² = −6.4 before beta, and
    # 6.4 nats of 30 tokens would be worth a remark.
    bent = {**HEALTHY, "rewards__chosen": (0.0, -0.64)}
    settings = {"model": "sft", "ref_model": None, "beta": 0.1, "f_divergence_type": "forward_kl"}
    assert abouts(course(**bent), settings) == {}  # logps tell, where no log-ratios were logged
    apart = {"logratios__chosen": (0.0, -2.0), "logratios__rejected": (0.0, -9.0)}
    assert abouts(course(**bent, **apart), settings) == {}
    apart["logratios__chosen"] = (0.0, -20.0)
    assert abouts(course(**bent, **apart), settings) == {"likelihood displacement": "warning"}


def test_displacement_that_loses_held_out_accuracy_is_a_warning() -> None:
    rows = course(
        **{**HEALTHY, "logps__chosen": (-50.0, -57.0), "eval__rewards__accuracies": (0.7, 0.6)}
    )
    assert abouts(rows)["likelihood displacement"] == "warning"


def test_accuracy_without_margin() -> None:
    rows = course(**{**HEALTHY, "rewards__margins": (0.0, 0.01)})
    assert abouts(rows) == {"accuracy without margin": "note"}


def test_length() -> None:
    assert abouts(course(**{**HEALTHY, "lengths__chosen": (45.0, 45.0)})) == {"length": "note"}


def test_saturation() -> None:
    rows = course(**{**HEALTHY, "loss": (0.69, 0.0), "rewards__accuracies": (1.0, 1.0)})
    for row in rows[5:]:
        row["loss"] = 0.001
    assert abouts(rows) == {"saturation": "note"}


def test_overfitting_names_the_best_step() -> None:
    rows = course(**HEALTHY)
    for step, loss in ((5, 0.6), (10, 0.5), (15, 0.55), (20, 0.7)):
        rows[step - 1]["eval/loss"] = loss
    (remark,) = training_health(rows, {}, {})
    assert remark.about == "overfitting"
    assert "least at step 10 (0.500) and is 0.700 now" in remark.text


def test_a_reference_that_is_not_the_start() -> None:
    rows = course(**HEALTHY)
    settings = {"model": "sft", "ref_model": "base"}
    assert abouts(rows, settings) == {"reference": "note"}  # rounds mean it so
    assert abouts(rows, {"model": "sft", "ref_model": "sft"}) == {}
    rows[0]["rewards/chosen"] = 0.8  # equal by name, but not by numbers
    assert abouts(rows, {"model": "sft", "ref_model": None}) == {"reference": "warning"}


def test_the_reference_is_the_start_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "base").mkdir()
    rows, model = course(**HEALTHY), str(tmp_path / "sft")
    for same in (f"{model}/", f"{tmp_path}/base/../sft"):
        assert abouts(rows, {"model": model, "ref_model": same}) == {}
    other = {"model": model, "ref_model": str(tmp_path / "base")}
    assert abouts(rows, other) == {"reference": "note"}


def test_rows_that_are_not_learned_from() -> None:
    data = {
        "read": {"rows": 100, "dropped": {"no prompt": [{"line": 3}] * 2}},
        "encoded": {"records": 98, "used": 80, "dropped": {"a response is empty": 18}},
    }
    (remark,) = training_health([], {}, data)
    assert "20 of 100 rows" in remark.text
    assert "a response is empty" in remark.text
    # Three texts in 39 pieces do not make up for two that were dropped.
    pieces = {
        "read": {"rows": 5},
        "encoded": {"records": 5, "used": 3, "groups": 39, "dropped": {"the text is empty": 2}},
    }
    (remark,) = training_health([], {}, pieces)
    assert "2 of 5 rows are not learned from" in remark.text
    # Of 10 rows one was left out, and the others' 20 responses are records of their own.
    several = {
        "read": {"rows": 10, "dropped": {"no prompt": [{"line": 3}]}},
        "encoded": {"records": 20, "used": 18, "dropped": {"a response is empty": 2}},
    }
    (remark,) = training_health([], {}, several)
    assert "3 of 21 rows are not learned from" in remark.text
    cut = {"read": {"rows": 100}, "encoded": {"records": 100, "used": 100, "responses_cut": 30}}
    assert abouts([], {}, cut) == {"cut responses": "warning"}


def test_a_remark_is_told_once_while_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of 30 steps a look is taken every third; the first with ten rows is after step 12.
    numbers = {**HEALTHY, "lengths__chosen": (45.0, 45.0)}
    rows = course(30, **numbers)

    def steps(state: TrainState) -> Iterator[StepResult]:
        for i, row in enumerate(rows):
            yield StepResult(i + 1, len(rows), row)

    settings = DpoSettings(model="sft", dataset="pairs", output_dir=str(tmp_path))
    told: dict[int, list[str]] = {}
    with caplog.at_level(logging.INFO, logger="accord.learn.loop.stage"):
        for result in run_with_checkpoints(steps, TrainState({}, FitState()), settings):
            told[result.step] = [r.getMessage() for r in caplog.records]
    assert told[11] == []
    (remark,) = told[12]
    assert remark.startswith("After step 12, length: Chosen responses are longer (45 tokens")
    assert told[30] == [remark]
    (kept,) = json.loads((tmp_path / "health.json").read_text())
    assert (kept["about"], kept["level"]) == ("length", "note")
