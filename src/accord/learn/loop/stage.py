"""What every training stage does around its loop: log, evaluate, save and resume."""

from __future__ import annotations

import json
import logging
import platform
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from accord.errors import StorageError
from accord.learn.health.rules import training_health
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.loop.fit import StepResult
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import should_evaluate, should_log
from accord.learn.loop.state import P, TrainState
from accord.lm.model import LanguageModel
from accord.runs import MetricsLog, read_metrics, write_json_atomic
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

HEALTH_CHECKS = 10  # in the course of a run

Evaluate = Callable[[], dict[str, float]]


def run_with_checkpoints(
    steps: Callable[[TrainState[P]], Iterator[StepResult]],
    state: TrainState[P],
    settings: TrainSettings,
    evaluate: Evaluate | None = None,
) -> Iterator[StepResult]:
    """Run a loop from its last checkpoint: log each step, evaluate and save when due.

    When the caller closes the generator between two steps, a checkpoint is written first. A
    process killed at any other moment resumes from the last one, with the same later losses. Of
    several processes the main one writes. Raises StorageError where they see different
    checkpoints.
    """
    output_dir, is_main = Path(settings.output_dir), processes().is_main
    output_dir.mkdir(parents=True, exist_ok=True)
    plain_settings = settings.model_dump(mode="json")
    metrics = MetricsLog(output_dir / "metrics.jsonl")
    # Together: the main process may finish, and remove what a slower one has not read yet.
    start_steps = processes().run_on_all(lambda: _restore(output_dir, state, settings))
    if len(set(start_steps)) > 1:
        raise StorageError(
            f"The processes of this run see different checkpoints in {output_dir}: they resume "
            f"after the steps {', '.join(map(str, start_steps))}. Put output_dir where all of them "
            f"see the same files."
        )
    if is_main:
        metrics.truncate_after(state.step)
    saved_step = state.step
    logged_remarks: set[str] = set()
    try:
        for result in steps(state):
            is_last = result.step == result.total
            numbers = dict(result.metrics)
            if evaluate is not None and should_evaluate(result.step, result.total, settings):
                numbers |= {f"eval/{name}": value for name, value in evaluate().items()}
            if is_main and should_log(result.step, result.total, settings):
                metrics.append({"step": result.step, **numbers, "peak_memory_mb": peak_memory_mb()})
            if is_main and (is_last or result.step % max(1, result.total // HEALTH_CHECKS) == 0):
                _log_health(output_dir, plain_settings, logged_remarks, result)
            if is_main and result.step % settings.save_steps == 0 and not is_last:
                save_checkpoint(output_dir, state, plain_settings, keep=settings.save_total_limit)
                saved_step = state.step
            yield StepResult(result.step, result.total, numbers)
    except GeneratorExit:
        if is_main and state.step > saved_step:
            save_checkpoint(output_dir, state, plain_settings, keep=settings.save_total_limit)
        raise


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
    if result.step == result.total:
        write_json_atomic(output_dir / "health.json", [remark.to_json() for remark in remarks])


def peak_memory_mb() -> float:
    """Peak memory so far in MiB: of the CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def model_card(lm: LanguageModel, method: str, settings: Any) -> str:
    """A model card in the hub's form: base model, data, method and settings."""
    lines = [
        "---",
        "library_name: " + ("peft" if lm.is_peft else "transformers"),
        "tags:",
        "- accord",
        f"- {method}",
        "---",
        "",
        f"# {Path(settings.output_dir).name}",
        "",
        f"Trained with `accord train {method}` from `{settings.model}` on `{settings.dataset}`.",
        "",
        "| setting | value |",
        "|---|---|",
    ]
    lines += [
        f"| `{name}` | `{value}` |"
        for name, value in settings.model_dump(mode="json").items()
        if value is not None
    ]
    lines += ["", f"Python {sys.version.split()[0]}, torch {torch.__version__}.", ""]
    return "\n".join(lines)
