"""What every training stage does around its loop: log, evaluate, save and resume."""

from __future__ import annotations

import json
import logging
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from accord.errors import StorageError
from accord.learn.health.rules import training_health
from accord.learn.loop.best import is_exhausted, update_best, write_best
from accord.learn.loop.checkpoints import load_best_weights, load_checkpoint, save_checkpoint
from accord.learn.loop.fit import StepResult
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import should_evaluate, should_grade, should_log
from accord.learn.loop.state import P, TrainState
from accord.learn.loop.trackers import open_trackers
from accord.lm.model import LanguageModel
from accord.lm.sharding.shards import gathered
from accord.runs import MetricsLog, read_metrics, write_json_atomic
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

HEALTH_CHECKS = 10  # in the course of a run

Evaluate = Callable[[], dict[str, float]]
Grade = Callable[[LanguageModel], dict[str, float]]
"""Metrics of a model's answers to prompts that the caller has."""


def run_with_checkpoints(
    steps: Callable[[TrainState[P]], Iterator[StepResult]],
    state: TrainState[P],
    settings: TrainSettings,
    evaluate: Evaluate | None = None,
    grade: Evaluate | None = None,
    models: Sequence[LanguageModel] = (),
) -> Iterator[StepResult]:
    """Run a loop from its last checkpoint: log each step, evaluate, grade and save when due.

    `evaluate` measures on held-out rows, on all processes, and `grade` answers to the prompts of
    `safety_dataset`, on the main one, with `models`.

    When the caller closes the generator between two steps, a checkpoint is written first. A
    process killed at any other moment resumes from the last one, with the same later losses. Of
    several processes the main one writes; where they divide a model, all save and stop together.
    Early stopping ends the run, and with `load_best_model_at_end` the learners have the best
    evaluation's weights at the end. Raises StorageError where processes see other checkpoints.
    """
    output_dir, is_main = Path(settings.output_dir), processes().is_main
    output_dir.mkdir(parents=True, exist_ok=True)
    plain_settings = settings.model_dump(mode="json")
    metrics = MetricsLog(output_dir / "metrics.jsonl")
    _restore_together(output_dir, state, settings)
    if is_main:
        metrics.truncate_after(state.step)
    saved_step = state.step
    logged_remarks: set[str] = set()
    trackers = open_trackers(settings, output_dir) if is_main else []
    try:
        # A run that was interrupted just after early stopping has no more steps.
        for result in () if is_exhausted(state.best, settings) else steps(state):
            numbers, is_best = dict(result.metrics), False
            if evaluate is not None and should_evaluate(result.step, result.total, settings):
                numbers |= {f"eval/{name}": value for name, value in evaluate().items()}
                is_best = _is_best(state, numbers, settings)
            if grade is not None and should_grade(result.step, result.total, settings):
                with gathered(*models):
                    numbers |= grade() if is_main else {}
            if is_exhausted(state.best, settings):
                result = StepResult(result.step, result.step, result.metrics)
            is_last = result.step == result.total
            if is_main and should_log(result.step, result.total, settings):
                row = {"step": result.step, **numbers, "peak_memory_mb": peak_memory_mb()}
                metrics.append(row)
                for tracker in trackers:
                    tracker.log(row)
            if is_main and (is_last or result.step % max(1, result.total // HEALTH_CHECKS) == 0):
                _log_health(output_dir, plain_settings, logged_remarks, result)
            due = result.step % settings.save_steps == 0 or is_best
            if (is_main or state.is_sharded) and due and not is_last:
                save_checkpoint(output_dir, state, plain_settings, keep=settings.save_total_limit)
                saved_step = state.step
            yield StepResult(result.step, result.total, numbers)
            if state.is_sharded and not processes().broadcast(True):
                raise GeneratorExit  # the main process has closed its generator
            if is_last:
                break
        _end_with_best(state, settings)
    except GeneratorExit:
        if is_main and state.is_sharded:
            processes().broadcast(False)
        if (is_main or state.is_sharded) and state.step > saved_step:
            save_checkpoint(output_dir, state, plain_settings, keep=settings.save_total_limit)
        if state.is_sharded and not is_main:
            raise KeyboardInterrupt from None
        raise
    finally:
        for tracker in trackers:
            tracker.finish()


def _is_best(state: TrainState[Any], metrics: Mapping[str, float], settings: TrainSettings) -> bool:
    """Count an evaluation for early stopping; whether its model is saved as the best so far."""
    if not settings.tracks_best:
        return False
    better = update_best(state.best, metrics, state.step, settings)
    # The last bits may differ between processes, which must decide alike.
    better, state.best = processes().broadcast((better, state.best))
    return bool(better) and settings.load_best_model_at_end


def _end_with_best(state: TrainState[Any], settings: TrainSettings) -> None:
    """Log how early stopping ended the run, and give the learners the best weights if asked."""
    best = state.best
    if is_exhausted(best, settings):
        log.info(
            "Stopped after step %d: the last %d evaluations did not improve on %.6g at step %d.",
            state.step,
            best.without_improvement,
            best.value,
            best.step,
        )
    if not settings.load_best_model_at_end or not best.step:
        return
    output_dir = Path(settings.output_dir)
    if best.step != state.step:
        processes().run_on_all(lambda: load_best_weights(output_dir, state))
    if processes().is_main:
        write_best(output_dir, best, settings)


def _restore_together(output_dir: Path, state: TrainState[P], settings: TrainSettings) -> None:
    """Restore the newest checkpoint, if any, on all processes: the main one may finish, and remove
    what a slower one has not read yet."""
    start_steps = processes().run_on_all(lambda: _restore(output_dir, state, settings))
    if len(set(start_steps)) > 1:
        raise StorageError(
            f"The processes of this run see different checkpoints in {output_dir}: they resume "
            f"after the steps {', '.join(map(str, start_steps))}. Put output_dir where all of them "
            f"see the same files."
        )


def _restore(output_dir: Path, state: TrainState[P], settings: TrainSettings) -> int:
    """Restore the newest checkpoint, if any; returns the step that the run starts after."""
    if load_checkpoint(output_dir, state, settings, resume=settings.resume):
        log.info("%s resumes after step %d", output_dir, state.step)
    return state.step


def _log_health(
    output_dir: Path, settings: Mapping[str, Any], logged: set[str], result: StepResult
) -> None:
    """Log remarks on the run so far, each subject once; at the end save them in health.json."""
    metrics_path, data_path = output_dir / "metrics.jsonl", output_dir / "data.json"
    rows = read_metrics(metrics_path) if metrics_path.is_file() else []  # none logged yet
    data, held_out = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for path in (data_path, output_dir / "eval_data.json")
    )
    finished = result.step == result.total
    remarks = training_health(rows, settings, data, held_out, finished=finished)
    for remark in remarks:
        if remark.about not in logged:
            level = logging.WARNING if remark.level == "warning" else logging.INFO
            log.log(level, "After step %d, %s: %s", result.step, remark.about, remark.text)
            logged.add(remark.about)
    if finished:
        dated = [
            replace(remark, step=_first_step(remark.about, rows, settings, data, held_out))
            for remark in remarks
        ]
        write_json_atomic(output_dir / "health.json", [remark.to_json() for remark in dated])


def _first_step(
    about: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    held_out: Mapping[str, Any],
) -> int | None:
    """The end of the first tenth of the run after which there is a remark on this subject.

    It is computed from the rows, so that a resumed run has the same as one that was not.
    """
    for tenth in range(1, HEALTH_CHECKS):
        part = rows[: len(rows) * tenth // HEALTH_CHECKS]
        if part and any(r.about == about for r in training_health(part, settings, data, held_out)):
            return int(part[-1]["step"])
    return int(rows[-1]["step"]) if rows else None


def peak_memory_mb() -> float:
    """Peak memory so far in MiB: of the CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10
