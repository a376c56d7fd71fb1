"""The stage that trains a model, by any method."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from accord.learn.loop.fit import StepResult
from accord.learn.loop.processes import processes
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.pipeline.grading import answer_grader
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import flawed_reward
from accord.settings.recipe import StagePlan

log = logging.getLogger(__name__)

SHOWN_METRICS = ("loss", "rewards/accuracies", "objective/scores", "objective/kl")


def train(plan: StagePlan) -> Iterator[Progress]:
    """Train by the plan's method; one unit of work is an optimiser step."""
    assert plan.method is not None
    settings: Any = plan.settings
    _warn_about_memory(plan)
    grade = answer_grader(settings)
    if plan.method in ONLINE:
        return _progress(train_online(plan.method, settings, world=flawed_reward, grade=grade))
    return _progress(train_offline(plan.method, settings, grade=grade))


def _warn_about_memory(plan: StagePlan) -> None:
    """Say it where the model alone does not fit, before minutes pass until memory runs out."""
    if not processes().is_main:
        return
    from accord.pipeline.plan.warning import memory_warning  # plans know all stages, this one too

    warning = memory_warning(plan)
    if warning is not None:
        log.warning("%s", warning)


def _progress(steps: Iterator[StepResult]) -> Iterator[Progress]:
    try:
        for step in steps:
            note = "  ".join(
                f"{name.split('/')[-1]} {step.metrics[name]:.3f}"
                for name in SHOWN_METRICS
                if name in step.metrics
            )
            yield Progress(step.step, step.total, note)
    finally:
        steps.close()  # type: ignore[attr-defined]  # so that an interrupted run saves its state
