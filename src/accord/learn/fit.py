"""The one optimiser loop, as a generator: the caller logs, evaluates, saves and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from accord.errors import TrainingError
from accord.learn.checkpoints import Learner, TrainState
from accord.learn.losses import Objective, merge_metrics
from accord.learn.optimiser import clip_gradients, learning_rate_factor
from accord.learn.order import RowOrder, total_examples
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import TrainSettings


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimiser step: its number from 1, of how many, and what was measured."""

    step: int
    total: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How rows are dealt out to steps."""

    rows: int
    examples: int  # seen in the whole run
    micro: int  # examples in a forward pass
    accumulation: int

    @property
    def per_step(self) -> int:
        return self.micro * self.accumulation

    @property
    def steps(self) -> int:
        return math.ceil(self.examples / self.per_step)

    def micro_batches(self, step: int, order: RowOrder) -> list[list[int]]:
        """Row numbers of each forward pass of a step (from 0); the last step may be smaller."""
        start = step * self.per_step
        stop = min(start + self.per_step, self.examples)
        return [order.slice(i, min(i + self.micro, stop)) for i in range(start, stop, self.micro)]


def schedule_of(rows: int, settings: TrainSettings) -> Schedule:
    """The schedule that the settings give a data set of `rows` rows."""
    micro, accumulation = (
        settings.per_device_train_batch_size,
        settings.gradient_accumulation_steps,
    )
    examples = total_examples(
        rows,
        epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        step_size=micro * accumulation,
    )
    return Schedule(rows, examples, micro, accumulation)


def fit(
    state: TrainState,
    groups: Sequence[PromptGroup],
    objective: Objective,
    weight: Callable[[PromptGroup], float],
    settings: TrainSettings,
    device: torch.device,
) -> Iterator[StepResult]:
    """Take optimiser steps from `state.step` to the end, yielding after each.

    The gradient is that of the weighted mean over all examples (or tokens) of the step, however
    they are split into forward passes. Raises TrainingError, with the rows in the batch, when the
    loss or gradient is not finite; the weights are then those of the step before.
    """
    (learner,) = state.learners.values()
    schedule, order = schedule_of(len(groups), settings), RowOrder(len(groups), settings.seed)
    tokens = int(state.numbers.get("num_tokens", 0))
    while state.step < schedule.steps:
        began = time.perf_counter()
        factor = set_learning_rate(learner, state.step, schedule.steps, settings)
        log = (state.step + 1) % settings.logging_steps == 0 or state.step + 1 == schedule.steps
        batches = schedule.micro_batches(state.step, order)
        mass = sum(weight(groups[i]) for rows in batches for i in rows)
        loss, parts = 0.0, []
        for rows in batches:
            batch = pack([groups[i] for i in rows], device)
            losses = objective(batch, rows, log=log)
            value = losses.total() / mass
            check_finite(float(value.detach()), "loss", state.step + 1, [groups[i] for i in rows])
            value.backward()
            loss += float(value.detach())
            parts.append(losses.metrics)
            tokens += len(batch.input_ids)
        norm = step_optimiser(
            learner,
            settings.max_grad_norm,
            state.step + 1,
            [groups[i] for rows in batches for i in rows],
        )
        state.step += 1
        state.numbers["num_tokens"] = tokens
        seen = min(state.step * schedule.per_step, schedule.examples)
        yield StepResult(
            state.step,
            schedule.steps,
            {
                "loss": loss,
                "epoch": seen / schedule.rows,
                "learning_rate": factor * settings.learning_rate,
                "grad_norm": norm,
                **merge_metrics(parts),
                "num_tokens": float(tokens),
                "seconds": time.perf_counter() - began,
            },
        )


def set_learning_rate(
    learner: Learner, step: int, total: int, settings: TrainSettings, peak: float | None = None
) -> float:
    """Set the learning rate of step (from 0); returns its share of the peak."""
    factor = learning_rate_factor(
        step, total, shape=settings.lr_scheduler_type, warmup_ratio=settings.warmup_ratio
    )
    for group in learner.optimiser.param_groups:
        group["lr"] = factor * (peak or settings.learning_rate)
    return factor


def step_optimiser(
    learner: Learner, max_norm: float, step: int, groups: Sequence[PromptGroup]
) -> float:
    """Clip, check and apply the gradients, then clear them; returns the norm before clipping."""
    norm = clip_gradients(learner.parameters.values(), max_norm)
    check_finite(norm, "gradient", step, groups)
    learner.optimiser.step()
    learner.optimiser.zero_grad(set_to_none=True)
    return norm


def check_finite(value: float, what: str, step: int, groups: Sequence[PromptGroup]) -> None:
    """Raise TrainingError, naming the rows, where a value is NaN or infinite."""
    if math.isfinite(value):
        return
    sources = list(dict.fromkeys(str(g.source) for g in groups))
    shown = ", ".join(sources[:8]) + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")
    raise TrainingError(
        f"The {what} is {value} at step {step}, so training stops; the last checkpoint is kept. "
        f"The rows in the batch: {shown}. Look at them first; then try a lower learning_rate, "
        f"precision=fp32, or a lower max_grad_norm."
    )
