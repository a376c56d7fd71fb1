"""What every stage does around its loop: log, evaluate, judge the run's health, resume."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accord.errors import SettingsError, StorageError
from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import run_with_checkpoints
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.train import train_offline
from accord.runs import read_metrics
from accord.settings.preferences import DpoSettings
from accord.settings.training import TrainSettings
from tests.learn.health.courses import HEALTHY, linear_rows
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import SavedToys, train


def test_no_evaluation_is_lost_between_two_logged_steps(toys: SavedToys, tmp_path: Path) -> None:
    # Logged at 2, 4, 6 and 8, and evaluated at 3, 6 and at the end.
    settings = toys.settings(
        "dpo",
        "llama",
        tmp_path,
        eval_dataset=toys.data("dpo"),
        eval_steps=3,
        logging_steps=2,
        max_steps=8,
    )
    train("dpo", settings)
    rows = {row["step"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert list(rows) == [2, 3, 4, 6, 8]
    assert [step for step, row in rows.items() if "eval/loss" in row] == [3, 6, 8]
    assert all("rewards/margins" in row for row in rows.values())  # the training step's


def test_the_same_seed_gives_the_same_run(toys: SavedToys, tmp_path: Path) -> None:
    for method in ("sft", "ppo"):
        first, second = (
            train(method, toys.settings(method, "llama", tmp_path / method / str(i), max_steps=2))
            for i in range(2)
        )
        assert [without_seconds(r.metrics) for r in first] == [
            without_seconds(r.metrics) for r in second
        ]


def test_a_run_that_may_not_resume_is_refused_a_folder_with_a_checkpoint(
    toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings("sft", "llama", tmp_path, max_steps=4, save_steps=1)
    steps = train_offline("sft", settings)
    next(steps)
    steps.close()
    no_resume = toys.settings("sft", "llama", tmp_path, max_steps=4, save_steps=1, resume=False)
    with pytest.raises(SettingsError, match="resume=false refuses to resume from it"):
        train("sft", no_resume)


def test_processes_that_see_different_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TwoProcesses:
        is_main = True

        def run_on_all(self, work: Callable[[], int]) -> list[int]:
            return [work(), 4]

    monkeypatch.setattr("accord.learn.loop.stage.processes", TwoProcesses)
    settings = TrainSettings(model="m", dataset="d", output_dir=str(tmp_path))
    with pytest.raises(StorageError, match="they resume after the steps 0, 4"):
        next(run_with_checkpoints(lambda state: iter(()), TrainState({}, FitState()), settings))


def test_health_is_judged_before_any_step_was_logged(toys: SavedToys, tmp_path: Path) -> None:
    # Judged at every step here, and logged at every fifth.
    settings = toys.settings("dpo", "llama", tmp_path, max_steps=6, logging_steps=5)
    results = train("dpo", settings)
    assert len(results) == 6
    assert json.loads((tmp_path / "health.json").read_text()) == []


def test_a_remark_is_logged_only_once_in_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of 30 steps health is judged at every third; the first time with ten rows is after step 12.
    rows = linear_rows(30, **{**HEALTHY, "lengths__chosen": (45.0, 45.0)})

    def steps(state: TrainState[FitState]) -> Iterator[StepResult]:
        for i, row in enumerate(rows):
            yield StepResult(i + 1, len(rows), row)

    settings = DpoSettings(model="sft", dataset="pairs", output_dir=str(tmp_path))
    messages: dict[int, list[str]] = {}
    with caplog.at_level(logging.INFO, logger="accord.learn.loop.stage"):
        for result in run_with_checkpoints(steps, TrainState({}, FitState()), settings):
            messages[result.step] = [r.getMessage() for r in caplog.records]
    assert messages[11] == []
    (message,) = messages[12]
    assert message.startswith(
        "After step 12, length: Over all steps so far, chosen responses are longer (45"
    )
    assert messages[30] == [message]
    (saved,) = json.loads((tmp_path / "health.json").read_text())
    assert (saved["about"], saved["level"]) == ("length", "note")
