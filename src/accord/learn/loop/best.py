"""The best evaluation of a run: when to stop early, and which model is saved at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accord.errors import SettingsError
from accord.runs import write_json_atomic
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

FILE = "best.json"


@dataclass(slots=True)
class Best:
    """The best evaluation so far: its metric and its step (0: none was better than nothing, as
    where all were NaN), and how many evaluations in a row have not improved on the best.

    A checkpoint saves it, so that a resumed run decides as an undisturbed one.
    """

    value: float | None = None
    step: int = 0
    without_improvement: int = 0


def update_best(
    best: Best, metrics: Mapping[str, float], step: int, settings: TrainSettings
) -> bool:
    """Take an evaluation's metrics (named as in metrics.jsonl) into account; whether it is the
    best so far.

    As transformers' EarlyStoppingCallback and Trainer do: any improvement is a new best, but only
    one above the threshold ends the count of evaluations without. NaN is no improvement. Raises
    SettingsError where the metric is missing.
    """
    value = best_metric(metrics, settings)
    sign = 1.0 if is_greater_better(settings) else -1.0
    # None and NaN: the first evaluation always ends the count, whatever its value.
    gain = None if best.value is None else sign * (value - best.value)
    improved = gain is None or gain > settings.early_stopping_threshold
    best.without_improvement = 0 if improved else best.without_improvement + 1
    if best.value is None:
        best.value = -sign * float("inf")
    if sign * value > sign * best.value:
        best.value, best.step = value, step
        return True
    return False


def is_exhausted(best: Best, settings: TrainSettings) -> bool:
    """Whether early stopping ends the run."""
    patience = settings.early_stopping_patience
    return patience is not None and best.without_improvement >= patience


def best_metric(metrics: Mapping[str, float], settings: TrainSettings) -> float:
    """The metric that decides, from an evaluation's. Raises SettingsError where it has none."""
    asked = settings.metric_for_best_model or "loss"
    name = asked
    for prefix in ("eval/", "eval_"):  # `eval_loss` is transformers' name
        name = name.removeprefix(prefix)
    if f"eval/{name}" not in metrics:
        known = sorted(n.removeprefix("eval/") for n in metrics if n.startswith("eval/"))
        hint = "" if settings.metric_for_best_model else " (the default)"
        raise SettingsError(
            f"metric_for_best_model={asked}{hint} is no metric of the evaluation. Name one of "
            f"{', '.join(known)}."
        )
    return float(metrics[f"eval/{name}"])


def is_greater_better(settings: TrainSettings) -> bool:
    """Whether a larger metric is better: as in transformers, unless its name ends in `loss`."""
    if settings.greater_is_better is not None:
        return settings.greater_is_better
    return not (settings.metric_for_best_model or "loss").endswith("loss")


def write_best(output_dir: Path, best: Best, settings: TrainSettings) -> None:
    """Write best.json: the step whose weights are saved, with its metric; and log it."""
    name = settings.metric_for_best_model or "loss"
    log.info("The saved model is that of step %d, where %s is %.6g.", best.step, name, best.value)
    values = {"step": best.step, "metric": name, "value": best.value}
    write_json_atomic(output_dir / FILE, values)
