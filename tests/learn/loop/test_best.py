"""Early stopping and the best model: decided as transformers does, and saved whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from accord.errors import SettingsError
from accord.learn.loop.best import Best, is_exhausted, update_best
from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import run_with_checkpoints
from accord.learn.loop.state import FitState, TrainState
from accord.settings.training import TrainSettings
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import SavedToys, train

NAN = math.nan


def settings_for(folder: Path | str = "o", **overrides: Any) -> TrainSettings:
    required = {"model": "m", "dataset": "d", "output_dir": str(folder)}
    return TrainSettings(**{**required, "eval_dataset": "e", "eval_steps": 1, **overrides})


def decide(values: Sequence[float], settings: TrainSettings) -> tuple[int, int, float | None]:
    """After how many evaluations accord stops, the best one, and its value."""
    best = Best()
    for step, value in enumerate(values, 1):
        update_best(best, {"eval/loss": value, "eval/accuracy": value}, step, settings)
        if is_exhausted(best, settings):
            return step, best.step, best.value
    return 0, best.step, best.value


def decide_as_transformers(
    values: Sequence[float], patience: int, threshold: float, greater: bool
) -> tuple[int, int, float | None]:
    """The same by transformers' own callback, and the Trainer's rule for the best metric."""

    class Arguments:
        metric_for_best_model = "loss"
        greater_is_better = greater

    callback = EarlyStoppingCallback(patience, threshold)
    state, control = TrainerState(), TrainerControl()
    best = 0
    for step, value in enumerate(values, 1):
        callback.on_evaluate(Arguments(), state, control, {"eval_loss": value})
        # Trainer._determine_best_metric, which runs after the callback.
        if state.best_metric is None:
            state.best_metric = -math.inf if greater else math.inf
        if (value > state.best_metric) if greater else (value < state.best_metric):
            state.best_metric, best = value, step
        if control.should_training_stop:
            return step, best, state.best_metric
    return 0, best, state.best_metric


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.15])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_decisions_are_those_of_transformers(
    patience: int, threshold: float, greater: bool
) -> None:
    generator = torch.Generator().manual_seed(10 * patience + greater)
    for _ in range(60):
        values = (torch.randint(0, 12, (9,), generator=generator) / 10).tolist()
        if values[3] > 0.8:
            values[int(values[0] * 5)] = NAN
        settings = settings_for(
            early_stopping_patience=patience,
            early_stopping_threshold=threshold,
            metric_for_best_model="loss",
            greater_is_better=greater,
        )
        expected = decide_as_transformers(values, patience, threshold, greater)
        assert decide(values, settings) == expected, values


def test_the_direction_follows_from_the_name() -> None:
    values = [0.5, 0.6, 0.7, 0.4]
    assert decide(values, settings_for(load_best_model_at_end=True))[1:] == (4, 0.4)
    accuracy = settings_for(load_best_model_at_end=True, metric_for_best_model="accuracy")
    assert decide(values, accuracy)[1:] == (3, 0.7)
    lower = accuracy.model_copy(update={"greater_is_better": False})
    assert decide(values, lower)[1:] == (4, 0.4)


@pytest.mark.parametrize("name", ["helpful/loss", "eval/helpful/loss", "eval_helpful/loss"])
def test_the_metric_may_be_that_of_one_evaluation_set(name: str) -> None:
    settings = settings_for(load_best_model_at_end=True, metric_for_best_model=name)
    best = Best()
    assert update_best(best, {"eval/helpful/loss": 2.0, "loss": 9.0}, 3, settings)
    assert (best.step, best.value) == (3, 2.0)


def test_a_metric_that_no_evaluation_has_is_refused_with_those_that_it_has() -> None:
    settings = settings_for(load_best_model_at_end=True, metric_for_best_model="accurracy")
    with pytest.raises(SettingsError, match=r"accurracy is no metric .* accuracy, loss"):
        update_best(Best(), {"eval/loss": 1.0, "eval/accuracy": 0.5, "x": 1.0}, 1, settings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"load_best_model_at_end": True, "eval_steps": None}, "compares evaluations"),
        ({"early_stopping_patience": 2, "eval_steps": None}, "compares evaluations"),
        ({"metric_for_best_model": "loss"}, "does nothing without"),
        ({"early_stopping_threshold": 0.1, "load_best_model_at_end": True}, "does nothing without"),
    ],
)
def test_settings_without_effect_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_for(**overrides)


def run_course(
    folder: Path, course: Sequence[float], stop_after: int | None = None, **overrides: Any
) -> tuple[list[StepResult], TrainState[FitState]]:
    """Steps whose held-out losses are `course`; the weight of the model is the step's number."""
    weight = torch.nn.Parameter(torch.zeros(1))
    learner: Any = type(
        "Learner",
        (),
        {
            "parameters": {"w": weight},
            "shards": {},
            "optimiser": torch.optim.AdamW([weight]),
            "sync_copies": lambda self: None,
        },
    )()
    state = TrainState({"model": learner}, FitState())

    def steps(state: TrainState[FitState]) -> Iterator[StepResult]:
        while state.step < len(course):
            state.step += 1
            weight.data.fill_(state.step)
            yield StepResult(state.step, len(course), {"loss": 0.0})

    settings = settings_for(folder, **{"save_steps": 100, **overrides})
    results = []
    running = run_with_checkpoints(steps, state, settings, lambda: {"loss": course[state.step - 1]})
    for result in running:
        results.append(result)
        if result.step == stop_after:
            running.close()  # type: ignore[attr-defined]
    return results, state


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    results, state = run_course(tmp_path, [5, 3, 1, 4, 2, 6], load_best_model_at_end=True)
    assert [r.step for r in results] == [1, 2, 3, 4, 5, 6]
    assert float(state.learners["model"].parameters["w"]) == 3.0
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "step": 3,
        "metric": "loss",
        "value": 1.0,
    }


def test_early_stopping_ends_the_run_as_its_last_step_would(tmp_path: Path) -> None:
    results, state = run_course(tmp_path, [5, 3, 4, 4, 1, 1], early_stopping_patience=2)
    assert [(r.step, r.total) for r in results] == [(1, 6), (2, 6), (3, 6), (4, 4)]
    assert float(state.learners["model"].parameters["w"]) == 4.0  # the last, as in transformers
    assert (tmp_path / "health.json").is_file()


def test_early_stopping_with_the_best_model(tmp_path: Path) -> None:
    options = {"early_stopping_patience": 2, "load_best_model_at_end": True}
    results, state = run_course(tmp_path, [5, 3, 4, 4, 1, 1], **options)
    assert (len(results), float(state.learners["model"].parameters["w"])) == (4, 2.0)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5])
def test_interrupted_anywhere_the_end_is_the_same(stop_after: int, tmp_path: Path) -> None:
    course = [5, 3, 4, 2, 4, 4, 1]
    options = {"early_stopping_patience": 2, "load_best_model_at_end": True}
    run_course(tmp_path, course, stop_after=stop_after, **options)
    results, state = run_course(tmp_path, course, **options)
    assert results[-1].step == 6
    assert float(state.learners["model"].parameters["w"]) == 4.0


def test_interrupted_after_the_last_step_of_early_stopping_no_step_is_added(
    tmp_path: Path,
) -> None:
    options = {"early_stopping_patience": 2, "load_best_model_at_end": True}
    run_course(tmp_path, [2, 3, 4, 1], stop_after=3, **options)
    results, state = run_course(tmp_path, [2, 3, 4, 1], **options)
    assert results == []
    assert float(state.learners["model"].parameters["w"]) == 1.0


def test_the_best_checkpoint_outlives_later_ones_and_is_whole(tmp_path: Path) -> None:
    run_course(
        tmp_path, [5, 1, 3, 4, 2, 6], stop_after=5, load_best_model_at_end=True, save_steps=1
    )
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000005"]
    best = tmp_path / "checkpoints" / "step-00000002"
    assert float(load_file(best / "state.safetensors")["model/weight/w"]) == 2.0
    # A run resumes from it as from any other.
    for file in (tmp_path / "checkpoints" / "step-00000005").iterdir():
        file.unlink()
    (tmp_path / "checkpoints" / "step-00000005").rmdir()
    results, state = run_course(tmp_path, [5, 1, 3, 4, 2, 6], load_best_model_at_end=True)
    assert [r.step for r in results] == [3, 4, 5, 6]
    assert float(state.learners["model"].parameters["w"]) == 2.0


def test_a_checkpoint_under_another_patience_is_refused(tmp_path: Path) -> None:
    run_course(tmp_path, [5, 3, 4, 4], stop_after=2, early_stopping_patience=2)
    with pytest.raises(SettingsError, match="early_stopping_patience was 2 and is 3"):
        run_course(tmp_path, [5, 3, 4, 4], early_stopping_patience=3)


def test_the_metric_without_early_stopping_is_not_part_of_the_identity() -> None:
    from accord.settings.identity import identity_settings

    plain = identity_settings(settings_for())
    assert not {key for key in plain if "best" in key or "early" in key}
    assert "load_best_model_at_end" in identity_settings(settings_for(load_best_model_at_end=True))


@pytest.mark.parametrize("method", ["dpo", "reward", "ppo"])
def test_the_saved_model_is_that_of_the_best_evaluation(
    method: str, toys: SavedToys, tmp_path: Path
) -> None:
    # By hand: of one run per number of steps, the one whose last evaluation is the best.
    metric = "objective/scores" if method == "ppo" else "loss"
    options: dict[str, Any] = {
        "eval_dataset": toys.data(method),
        "eval_steps": 1,
        "lr_scheduler_type": "constant",
        "learning_rate": 0.05,
        "max_steps": 4,
    }
    best = {"load_best_model_at_end": True, "metric_for_best_model": metric}
    results = train(method, toys.settings(method, "llama", tmp_path / "best", **options, **best))
    values = [r.metrics[f"eval/{metric}"] for r in results]
    wanted = 1 + values.index(max(values) if method == "ppo" else min(values))
    expected = {**options, "max_steps": wanted}
    again = train(method, toys.settings(method, "llama", tmp_path / "again", **expected))
    assert [without_seconds(r.metrics) for r in again][:wanted][-1]["eval/" + metric] == (
        values[wanted - 1]
    )
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("best", "again")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    card = (tmp_path / "best" / "model" / "README.md").read_text()
    assert f"The weights are those of step {wanted}, where {metric} was best." in card


def test_an_online_method_needs_the_name_of_a_metric(toys: SavedToys, tmp_path: Path) -> None:
    values = {"eval_dataset": "e", "eval_steps": 1, "load_best_model_at_end": True}
    with pytest.raises(ValueError, match="objective/scores"):
        toys.settings("ppo", "llama", tmp_path, **values)
