"""The one optimiser loop, as a generator: the caller logs, evaluates, saves or stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from accord.errors import NotFiniteError
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import Objective, mean_metrics
from accord.learn.loop.optimiser import (
    clip_gradients,
    learning_rate_factor,
    scale_to_norm,
    squared_norm,
)
from accord.learn.loop.processes import Processes, processes
from accord.learn.loop.schedule import RowOrder, make_schedule, own_passes, should_log
from accord.learn.loop.state import FitState, TrainState
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import TrainSettings


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimiser step: its number from 1, the number of steps in all, and its metrics."""

    step: int
    total: int
    metrics: dict[str, float]


def fit(
    state: TrainState[FitState],
    groups: Sequence[PromptGroup],
    objective: Objective,
    weight: Callable[[PromptGroup], float],
    settings: TrainSettings,
    device: torch.device,
    procs: Processes = Processes(),  # noqa: B008 - frozen
) -> Iterator[StepResult]:
    """Take optimiser steps from `state.step` to the last, yielding after each.

    The gradient is that of the weighted mean over all examples (or tokens) of the step, however
    they are split into forward passes and over processes. Raises NotFiniteError, with the rows in
    the batch, when the loss or gradient is not finite; the weights are then those of the step
    before.
    """
    (learner,) = state.learners.values()
    schedule = make_schedule(len(groups), settings, state.step_processes or procs.world_size)
    order = RowOrder(len(groups), settings.seed)
    num_tokens = state.progress.num_tokens
    while state.step < schedule.steps:
        start_time = time.perf_counter()
        factor = set_learning_rate(learner, state.step, schedule.steps, settings)
        log = should_log(state.step + 1, schedule.steps, settings)
        rows = schedule.step_rows(state.step, order)
        total_weight = sum(weight(groups[i]) for i in rows)
        num_tokens += sum(groups[i].num_tokens for i in rows)
        context = objective.prepare(rows)
        loss, parts, not_finite = 0.0, [], None
        micro_batches = schedule.micro_batches(rows, groups, procs.world_size)
        for micro_batch, counts in own_passes(micro_batches, procs, lockstep=state.is_sharded):
            batch = pack([groups[i] for i in micro_batch], device)
            losses = objective.losses(batch, micro_batch, context, log=log)
            mean_loss = losses.weighted_sum() / total_weight
            if not counts:  # of another process, which waits for this pass
                (0.0 * mean_loss).backward()
                continue
            loss_value = float(mean_loss.detach())
            if not math.isfinite(loss_value):
                not_finite = not_finite or (loss_value, micro_batch)
                if not state.is_sharded:  # the others wait for the rest of the passes
                    break
            mean_loss.backward()
            loss += loss_value
            parts.append(losses.metrics)
        for failure in procs.all_gather(not_finite):  # all processes stop with the same error
            if failure is not None:
                check_finite(failure[0], "loss", state.step + 1, [groups[i] for i in failure[1]])
        sum_gradients(learner, procs)
        norm = step_optimiser(
            learner, settings.max_grad_norm, state.step + 1, [groups[i] for i in rows]
        )
        shards = procs.all_gather((loss, parts))
        state.step += 1
        state.progress.num_tokens = num_tokens
        examples = min(state.step * schedule.examples_per_step, schedule.examples)
        yield StepResult(
            state.step,
            schedule.steps,
            {
                "loss": sum(shard_loss for shard_loss, _ in shards),
                "epoch": examples / schedule.rows,
                "learning_rate": factor * settings.learning_rate,
                "grad_norm": norm,
                **mean_metrics([part for _, shard_parts in shards for part in shard_parts]),
                "num_tokens": float(num_tokens),
                "seconds": time.perf_counter() - start_time,
            },
        )


def set_learning_rate(
    learner: Learner, step: int, total: int, settings: TrainSettings, peak: float | None = None
) -> float:
    """Set the learning rate of a step (from 0); returns it as a share of the peak."""
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
    norm = clip_and_check(learner, max_norm, step, groups)
    apply_gradients(learner)
    return norm


def clip_and_check(
    learner: Learner, max_norm: float, step: int, groups: Sequence[PromptGroup]
) -> float:
    """Clip the gradients; returns their norm before. Raises NotFiniteError where it is not
    finite."""
    if learner.shards:
        norm = _clip_divided(learner, max_norm)
    else:
        norm = clip_gradients(learner.parameters.values(), max_norm)
    check_finite(norm, "gradient", step, groups)
    return norm


def _clip_divided(learner: Learner, max_norm: float) -> float:
    """Clip gradients of which each process has a part; the norm is that of all of them."""
    squares = processes().all_gather(
        squared_norm(learner.parameters[name] for name in learner.shards)
    )
    norm = math.sqrt(sum(squares) + squared_norm(learner.whole_parameters().values()))
    scale_to_norm(learner.parameters.values(), norm, max_norm)
    return norm


def sum_gradients(learner: Learner, procs: Processes) -> None:
    """Make the gradients those of all processes' passes; those of divided parameters are."""
    learner.collect_gradients()
    procs.all_reduce_gradients(learner.whole_parameters().values())


def apply_gradients(learner: Learner) -> None:
    """Take the optimiser's step, and clear the gradients."""
    learner.optimiser.step()
    learner.sync_copies()
    learner.clear_gradients()


def check_finite(value: float, what: str, step: int, groups: Sequence[PromptGroup]) -> None:
    """Raise NotFiniteError, naming the rows, where a value is NaN or infinite."""
    if math.isfinite(value):
        return
    sources = list(dict.fromkeys(str(g.source) for g in groups))
    shown = ", ".join(sources[:8]) + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")
    raise NotFiniteError(
        f"The {what} is {value} at step {step}; the last checkpoint is unchanged. "
        f"The rows in the batch: {shown}. Look at them first; then try a lower learning_rate, "
        f"precision=fp32, or a lower max_grad_norm."
    )
