"""`--measure`: the first steps of a stage, run for real in another process, and their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from accord.errors import RequestError, TrainingError
from accord.pipeline.plan.changes import changed
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.settings.recipe import StagePlan, settings_class

STEPS = 2  # the first step has no moments yet, and prepares much
LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP")
"""Variables of a launcher, whose other processes do not take these steps."""
UNMEASURED = (  # what a run does beside its steps
    "eval_dataset",
    "eval_steps",
    "safety_dataset",
    "safety_steps",
    "early_stopping_patience",
    "load_best_model_at_end",
    "metric_for_best_model",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "mixture",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a step, bytes at the peak of the steps above those of the imported libraries, and
    the peak that is planned for these steps."""

    seconds: float
    peak: int
    planned: int | None


def measure_stage(stage: PlannedStage, machine: Any) -> Measured:
    """Run the first steps of a stage in a temporary folder, on a few rows, and measure them: in one
    process, with the whole model, whatever is planned.

    Raises RequestError where its model or rows are still to be made, TrainingError where the steps
    fail.
    """
    if stage.model is None or stage.facts is None or stage.facts.unknown:
        why = stage.facts.unknown if stage.facts is not None else stage.problem
        raise RequestError(f"--measure runs steps of `{stage.plan.name}`, but {why}.")
    if stage.model.made_by is not None:
        raise RequestError(
            f"--measure runs steps of `{stage.plan.name}`, but its model is that of the stage "
            f"`{stage.model.made_by}`, which has not run. Run that stage first."
        )
    with tempfile.TemporaryDirectory() as folder:
        plan = _short(stage, folder)
        # Its own plan: the first steps' passes are not the largest of the run.
        planned = plan_stage(plan, (), replace(machine, count=1)).memory
        values = plan.settings.model_dump(mode="json", exclude_unset=True)
        done = subprocess.run(
            [sys.executable, "-m", "accord.pipeline.plan.measure", plan.method or ""],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if k not in LAUNCHED},
        )
    if done.returncode:
        raise TrainingError(
            f"The first steps of `{plan.name}` failed: {done.stderr.strip()[-600:]}. Where memory "
            f"ran out, the process is killed without a word: lower what the plan shows as largest."
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    return Measured(figures["seconds"], figures["peak"], None if planned is None else planned.peak)


def _short(stage: PlannedStage, folder: str) -> StagePlan:
    """The stage with its first steps alone, on as many rows as they read."""
    settings: Any = stage.plan.settings
    given = {k: v for k, v in settings.model_dump(exclude_unset=True).items() if k in UNMEASURED}
    plain = changed_without(stage.plan, tuple(given))
    examples = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    rows = max(STEPS * examples, 8)
    limit = min(rows, settings.max_samples) if settings.max_samples else rows
    return changed(
        plain, output_dir=f"{folder}/out", max_steps=STEPS, max_samples=limit, save_steps=10**6
    )


def changed_without(plan: StagePlan, keys: tuple[str, ...]) -> StagePlan:
    """The stage with the defaults of some settings."""
    given = plan.settings.model_dump(exclude_unset=True)
    values = {key: value for key, value in given.items() if key not in keys}
    return StagePlan(plan.name, plan.kind, type(plan.settings).model_validate(values), plan.method)


def run_steps(method: str, values: dict[str, Any]) -> dict[str, float]:
    """Train, and return the seconds of the last step and the bytes above those before."""
    from accord.learn.loop.stage import peak_memory_mb
    from accord.learn.offline.train import train_offline
    from accord.learn.online.methods import ONLINE
    from accord.learn.online.train import train_online
    from accord.pipeline.stages.judges import flawed_reward

    settings: Any = settings_class("train", method).model_validate(values)
    before = peak_memory_mb()
    if method in ONLINE:
        steps = train_online(method, settings, world=flawed_reward)
    else:
        steps = train_offline(method, settings)
    seconds = [step.metrics["seconds"] for step in steps]
    return {"seconds": seconds[-1], "peak": (peak_memory_mb() - before) * 2**20}


if __name__ == "__main__":
    print(json.dumps(run_steps(sys.argv[1], json.load(sys.stdin))))
