"""What every training stage does around its loop: metrics, checkpoints, evaluation, the end."""

from __future__ import annotations

import logging
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from accord.learn.checkpoints import TrainState, load_checkpoint, save_checkpoint
from accord.learn.fit import StepResult
from accord.lm.model import LanguageModel
from accord.runs import MetricsLog
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

Evaluate = Callable[[], dict[str, float]]


def keep_going(
    steps: Callable[[TrainState], Iterator[StepResult]],
    state: TrainState,
    settings: TrainSettings,
    evaluate: Evaluate | None = None,
) -> Iterator[StepResult]:
    """Run a loop from its last checkpoint: log each step, evaluate and save when it is time.

    When the caller closes the generator between two steps, a checkpoint is written first. A
    process killed at any other moment goes on from the last one, at the same later losses.
    """
    output_dir = Path(settings.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    plain = settings.model_dump(mode="json")
    metrics = MetricsLog(output_dir / "metrics.jsonl")
    if load_checkpoint(output_dir, state, plain, resume=settings.resume):
        log.info("%s goes on after step %d", output_dir, state.step)
    metrics.truncate_after(state.step)
    saved = state.step
    try:
        for result in steps(state):
            last = result.step == result.total
            numbers = dict(result.metrics)
            if evaluate is not None and (
                last or (settings.eval_steps and result.step % settings.eval_steps == 0)
            ):
                numbers |= {f"eval/{name}": value for name, value in evaluate().items()}
            if result.step % settings.logging_steps == 0 or last:
                metrics.append({"step": result.step, **numbers, "peak_memory_mb": peak_memory_mb()})
            if result.step % settings.save_steps == 0 and not last:
                save_checkpoint(output_dir, state, plain, keep=settings.save_total_limit)
                saved = state.step
            yield StepResult(result.step, result.total, numbers)
    except GeneratorExit:
        if state.step > saved:
            save_checkpoint(output_dir, state, plain, keep=settings.save_total_limit)
        raise


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
