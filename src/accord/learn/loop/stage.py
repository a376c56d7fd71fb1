"""What every training stage does around its loop: metrics, checkpoints, evaluation, the end."""

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
from accord.learn.loop.checkpoints import TrainState, load_checkpoint, save_checkpoint
from accord.learn.loop.fit import StepResult, evaluates, logs
from accord.learn.loop.processes import processes
from accord.lm.model import LanguageModel
from accord.runs import MetricsLog, read_metrics, write_json_atomic
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

CHECKS = 10  # looks at a run's health while it lasts

Evaluate = Callable[[], dict[str, float]]


def run_with_checkpoints(
    steps: Callable[[TrainState], Iterator[StepResult]],
    state: TrainState,
    settings: TrainSettings,
    evaluate: Evaluate | None = None,
) -> Iterator[StepResult]:
    """Run a loop from its last checkpoint: log each step, evaluate and save when it is time.

    When the caller closes the generator between two steps, a checkpoint is written first. A
    process killed at any other moment goes on from the last one, at the same later losses. Of
    several processes the main one writes. Raises StorageError where they see other checkpoints.
    """
    output_dir, writes = Path(settings.output_dir), processes().is_main
    output_dir.mkdir(parents=True, exist_ok=True)
    plain = settings.model_dump(mode="json")
    metrics = MetricsLog(output_dir / "metrics.jsonl")
    # Together: the main process may be done at once, and remove what another has not read yet.
    steps_of_all = processes().run_on_all(
        lambda: _started(output_dir, state, plain, settings.resume)
    )
    if len(set(steps_of_all)) > 1:
        raise StorageError(
            f"The processes of this run see other checkpoints in {output_dir}: they go on after "
            f"the steps {', '.join(map(str, steps_of_all))}. Put output_dir where all of them see "
            f"the same files."
        )
    if writes:
        metrics.truncate_after(state.step)
    saved = state.step
    told: set[str] = set()
    try:
        for result in steps(state):
            last = result.step == result.total
            numbers = dict(result.metrics)
            if evaluate is not None and evaluates(result.step, result.total, settings):
                numbers |= {f"eval/{name}": value for name, value in evaluate().items()}
            if writes and logs(result.step, result.total, settings):
                metrics.append({"step": result.step, **numbers, "peak_memory_mb": peak_memory_mb()})
            if writes and (last or result.step % max(1, result.total // CHECKS) == 0):
                _tell_health(output_dir, plain, told, result)
            if writes and result.step % settings.save_steps == 0 and not last:
                save_checkpoint(output_dir, state, plain, keep=settings.save_total_limit)
                saved = state.step
            yield StepResult(result.step, result.total, numbers)
    except GeneratorExit:
        if writes and state.step > saved:
            save_checkpoint(output_dir, state, plain, keep=settings.save_total_limit)
        raise


def _started(output_dir: Path, state: TrainState, plain: dict[str, Any], resume: bool) -> int:
    """The step that the state goes on after: its newest checkpoint's, or 0."""
    if load_checkpoint(output_dir, state, plain, resume=resume):
        log.info("%s goes on after step %d", output_dir, state.step)
    return state.step


def _tell_health(
    output_dir: Path, settings: Mapping[str, Any], told: set[str], result: StepResult
) -> None:
    """Log remarks on the run so far, each subject once; at the end keep them in health.json."""
    place = output_dir / "metrics.jsonl"
    rows = read_metrics(place) if place.is_file() else []  # there may be none logged yet
    kept = output_dir / "data.json"
    data = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    found = training_health(rows, settings, data)
    for remark in found:
        if remark.about not in told:
            level = logging.WARNING if remark.level == "warning" else logging.INFO
            log.log(level, "After step %d, %s: %s", result.step, remark.about, remark.text)
            told.add(remark.about)
    if result.step == result.total:
        write_json_atomic(output_dir / "health.json", [remark.to_json() for remark in found])


def peak_memory_mb() -> float:
    """The most memory used so far: of the CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def model_card(lm: LanguageModel, method: str, settings: Any) -> str:
    """A model card in the hub's form: what it was made from, how, and with which settings."""
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
