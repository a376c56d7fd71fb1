"""Online learning: answer prompts, score the answers, take a few steps; PPO, GRPO and RLOO.

What the methods differ in stands in `learn.online.methods`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accord.errors import NotFiniteError
from accord.learn.loop.checkpoints import TrainState
from accord.learn.loop.fit import StepResult, logs, set_learning_rate
from accord.learn.loop.objective import Metric, merge_metrics
from accord.learn.loop.order import RowOrder
from accord.learn.online.collecting import episodes_of, minibatches, rows_of
from accord.learn.online.kl_limit import within_limit
from accord.learn.online.methods import ONLINE
from accord.learn.online.metrics import group_summary, summary
from accord.learn.online.roles import Roles
from accord.learn.online.rollback import clear_gradients, restore_snapshot, take_snapshot
from accord.learn.online.rollout import drop
from accord.learn.online.step import Pretraining, Work, take_step
from accord.objectives.policy import adapted_beta
from accord.records import PromptOnly
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)

NOT_FINITE = 3  # iterations in a row that may be skipped, the last of them not


def learn_online(
    name: str,
    state: TrainState,
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: Any,
    *,
    iterations: int,
    folder: Path | None = None,
    pretraining: Pretraining | None = None,
) -> Iterator[StepResult]:
    """Iterate by ONLINE[name] from `state.step`, yielding after each iteration.

    Episodes are kept in the folder while they are needed. An iteration whose loss or gradient is
    not finite is taken back and skipped. Raises NotFiniteError where that can't be done, or at
    the third in a row, and TrainingError when the policy's log-probs before an iteration's first
    step are not those that were recorded. Ends early where `max_kl` is passed and nothing else
    was asked for.
    """
    method, order = ONLINE[name], RowOrder(len(prompts), settings.seed)
    numbers = state.numbers
    numbers.setdefault("beta", settings.beta)
    while state.step < iterations and not numbers.get("stopped"):
        began = time.perf_counter()
        factor = _set_rates(state, iterations, settings)
        logged = logs(state.step + 1, iterations, settings)
        chosen = rows_of(order, settings, state.step)
        episodes, held = episodes_of(
            method,
            state.step,
            roles,
            [prompts[i] for i in chosen],
            [records[i] for i in chosen],
            settings,
            logs=logged,
            folder=folder,
        )
        limit = within_limit(state, episodes, settings)
        found: dict[str, float] = {"skipped": 0.0}
        beta = float(numbers["beta"])
        if limit.goes_on:
            targets = method.targets(episodes, settings, beta)
            learns = state.step >= getattr(settings, "critic_warmup_steps", 0)
            work = Work(
                method, roles, settings, episodes, targets, beta, learns, logged, held, pretraining
            )
            found |= targets.numbers | _improve_or_skip(state, work, folder)
        drop(held)
        found |= summary(episodes, settings, beta)
        if method.groups:
            found |= group_summary(episodes, settings)
        state.step += 1
        _adapt(state, found, settings, len(episodes.scores))
        numbers["stopped"] = limit.stops
        numbers["num_tokens"] = numbers.get("num_tokens", 0) + sum(
            g.num_tokens for g in episodes.groups
        )
        found |= {
            "epoch": state.step * len(chosen) / len(prompts),
            "learning_rate": factor * settings.learning_rate,
            "num_tokens": float(numbers["num_tokens"]),
            "seconds": time.perf_counter() - began,
            "stopped_by_kl": float(limit.stops),
            "rolled_back": float(limit.rolled_back),
        }
        yield StepResult(state.step, state.step if limit.stops else iterations, found)


def improve(state: TrainState, work: Work) -> Iterator[dict[str, Metric]]:
    """A few epochs of steps over the episodes that take part, yielding what each measured."""
    part = work.targets.part.nonzero().squeeze(1).tolist()
    settings, number = work.settings, state.step * work.settings.epochs
    for epoch in range(settings.epochs):
        for place, members in enumerate(minibatches(part, settings, state.step, epoch)):
            yield take_step(
                state,
                work,
                members,
                number=(number + epoch) * settings.num_mini_batches + place,
                first=epoch == 0 and place == 0,
            )


def _improve_or_skip(state: TrainState, work: Work, folder: Path | None) -> dict[str, float]:
    """The means of what the steps measured; nothing is left of them where one is not finite."""
    settings, numbers = work.settings, state.numbers
    several = settings.epochs * settings.num_mini_batches > 1
    if settings.snapshot_storage != "off" and (several or settings.rolls_back):
        take_snapshot(state, settings.snapshot_storage, folder)
    parts: list[dict[str, Metric]] = []
    try:
        for measured in improve(state, work):
            parts.append(measured)
    except NotFiniteError as error:
        numbers["skipped"] = numbers.get("skipped", 0) + 1
        if numbers["skipped"] == NOT_FINITE:
            raise
        if parts and not state.snapshot:
            raise NotFiniteError(
                f"{error} With rollback_copy=memory (or disk) an iteration like this is taken back "
                f"and skipped."
            ) from error
        if parts:
            restore_snapshot(state)
        clear_gradients(state)
        log.warning("Iteration %d is taken back and skipped: %s", state.step + 1, error)
        return {"skipped": 1.0}
    finally:
        if not settings.rolls_back:
            state.snapshot = {}
    numbers["skipped"] = 0
    return merge_metrics(parts)


def _adapt(
    state: TrainState, found: dict[str, float], settings: OnlineSettings, episodes: int
) -> None:
    if settings.adaptive_kl_target is None or "objective/kl" not in found:
        return
    if found["skipped"]:  # it may have ended before all episodes were measured
        return
    state.numbers["beta"] = adapted_beta(
        float(state.numbers["beta"]),
        found["objective/kl"],
        target=settings.adaptive_kl_target,
        episodes=episodes,
        horizon=settings.adaptive_kl_horizon,
    )


def _set_rates(state: TrainState, iterations: int, settings: OnlineSettings) -> float:
    """Set all learning rates; returns their share of the peaks."""
    factor, scale = 0.0, float(state.numbers.get("rate_scale", 1.0))
    peaks = {"critic": getattr(settings, "critic_learning_rate", None)}
    for name, learner in state.learners.items():
        peak = scale * (peaks.get(name) or settings.learning_rate)
        factor = scale * set_learning_rate(learner, state.step, iterations, settings, peak)
    return factor
