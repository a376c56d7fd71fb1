"""The one optimiser loop, as a generator: the caller logs, evaluates, saves and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from accord.errors import NotFiniteError
from accord.learn.loop.checkpoints import TrainState
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import Objective, merge_metrics
from accord.learn.loop.optimiser import clip_gradients, learning_rate_factor
from accord.learn.loop.order import RowOrder, total_examples
from accord.learn.loop.passes import deal
from accord.learn.loop.processes import Processes
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
    micro: int  # examples in a forward pass, on average
    accumulation: int
    processes: int = 1
    max_tokens: int | None = None

    @property
    def per_step(self) -> int:
        return self.micro * self.accumulation * self.processes

    @property
    def steps(self) -> int:
        return math.ceil(self.examples / self.per_step)

    def rows_of(self, step: int, order: RowOrder) -> list[int]:
        """Row numbers of a step (from 0); the last step may be smaller."""
        start = step * self.per_step
        return order.slice(start, min(start + self.per_step, self.examples))

    def passes(self, rows: Sequence[int], groups: Sequence[PromptGroup]) -> list[list[int]]:
        """The rows dealt to the step's forward passes, so that all have about as many tokens.

        There are as many as the settings say; more where one would have more than `max_tokens`.
        """
        count = min(len(rows), max(1, math.ceil(len(rows) / self.micro)))
        sizes = [groups[i].num_tokens for i in rows]
        dealt = deal(sizes, count, most=self.max_tokens, multiple=self.processes)
        return [[rows[place] for place in part] for part in dealt]


def make_schedule(rows: int, settings: TrainSettings, processes: int = 1) -> Schedule:
    """The schedule that the settings give a data set of `rows` rows."""
    micro, accumulation = (
        settings.per_device_train_batch_size,
        settings.gradient_accumulation_steps,
    )
    examples = total_examples(
        rows,
        epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        step_size=micro * accumulation * processes,
    )
    return Schedule(rows, examples, micro, accumulation, processes, settings.max_tokens_per_forward)


def evaluates(step: int, total: int, settings: TrainSettings) -> bool:
    """Whether held-out rows are measured after a step (from 1), where there are some."""
    return step == total or (settings.eval_steps is not None and step % settings.eval_steps == 0)


def logs(step: int, total: int, settings: TrainSettings) -> bool:
    """Whether a step (from 1) has a row in metrics.jsonl: what was measured then is not lost."""
    return step % settings.logging_steps == 0 or evaluates(step, total, settings)


def fit(
    state: TrainState,
    groups: Sequence[PromptGroup],
    objective: Objective,
    weight: Callable[[PromptGroup], float],
    settings: TrainSettings,
    device: torch.device,
    team: Processes = Processes(),  # noqa: B008 - frozen
) -> Iterator[StepResult]:
    """Take optimiser steps from `state.step` to the end, yielding after each.

    The gradient is that of the weighted mean over all examples (or tokens) of the step, however
    they are split into forward passes and over processes. Raises NotFiniteError, with the rows in
    the batch, when the loss or gradient is not finite; the weights are then those of the step
    before.
    """
    (learner,) = state.learners.values()
    schedule = make_schedule(len(groups), settings, team.world_size)
    order = RowOrder(len(groups), settings.seed)
    tokens = int(state.numbers.get("num_tokens", 0))
    while state.step < schedule.steps:
        began = time.perf_counter()
        factor = set_learning_rate(learner, state.step, schedule.steps, settings)
        log = logs(state.step + 1, schedule.steps, settings)
        in_step = schedule.rows_of(state.step, order)
        mass = sum(weight(groups[i]) for i in in_step)
        tokens += sum(groups[i].num_tokens for i in in_step)
        objective.begin_step(in_step)
        loss, parts, broken = 0.0, [], None
        for rows in schedule.passes(in_step, groups)[team.rank :: team.world_size]:
            batch = pack([groups[i] for i in rows], device)
            losses = objective.losses(batch, rows, log=log)
            value = losses.total() / mass
            told = float(value.detach())
            if not math.isfinite(told):
                broken = (told, rows)
                break
            value.backward()
            loss += told
            parts.append(losses.metrics)
        for found in team.all_gather(broken):  # all processes stop with the same error
            if found is not None:
                check_finite(found[0], "loss", state.step + 1, [groups[i] for i in found[1]])
        team.all_reduce_gradients(learner.parameters.values())
        norm = step_optimiser(
            learner, settings.max_grad_norm, state.step + 1, [groups[i] for i in in_step]
        )
        shares = team.all_gather((loss, parts))
        state.step += 1
        state.numbers["num_tokens"] = tokens
        seen = min(state.step * schedule.per_step, schedule.examples)
        yield StepResult(
            state.step,
            schedule.steps,
            {
                "loss": sum(share for share, _ in shares),
                "epoch": seen / schedule.rows,
                "learning_rate": factor * settings.learning_rate,
                "grad_norm": norm,
                **merge_metrics([part for _, some in shares for part in some]),
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
    norm = clipped_norm(learner, max_norm, step, groups)
    apply_gradients(learner)
    return norm


def clipped_norm(
    learner: Learner, max_norm: float, step: int, groups: Sequence[PromptGroup]
) -> float:
    """Clip and check the gradients; returns their norm before."""
    norm = clip_gradients(learner.parameters.values(), max_norm)
    check_finite(norm, "gradient", step, groups)
    return norm


def apply_gradients(learner: Learner) -> None:
    """Take the optimiser's step, and clear the gradients."""
    learner.optimiser.step()
    learner.publish()
    learner.optimiser.zero_grad(set_to_none=True)


def check_finite(value: float, what: str, step: int, groups: Sequence[PromptGroup]) -> None:
    """Raise NotFiniteError, naming the rows, where a value is NaN or infinite."""
    if math.isfinite(value):
        return
    sources = list(dict.fromkeys(str(g.source) for g in groups))
    shown = ", ".join(sources[:8]) + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")
    raise NotFiniteError(
        f"The {what} is {value} at step {step}; the last checkpoint is kept. "
        f"The rows in the batch: {shown}. Look at them first; then try a lower learning_rate, "
        f"precision=fp32, or a lower max_grad_norm."
    )
