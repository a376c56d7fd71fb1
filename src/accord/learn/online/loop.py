"""The loop of online learning: roll out, score, take a few optimiser steps. One loop for all.

What the methods differ in is in `learn.online.methods`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accord.errors import NotFiniteError
from accord.learn.loop.fit import StepResult, set_learning_rate
from accord.learn.loop.objective import Metric, mean_metrics
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import RowOrder, should_log
from accord.learn.loop.state import TrainState
from accord.learn.online.dynamic_sampling import replace_equal_groups
from accord.learn.online.episodes import (
    Episodes,
    SavedForward,
    measure_rollouts,
    micro_batches,
    minibatches,
)
from accord.learn.online.guards import (
    OnlineState,
    apply_kl_limit,
    clear_gradients,
    restore_snapshot,
    take_snapshot,
)
from accord.learn.online.methods import ONLINE, OnlineMethod
from accord.learn.online.metrics import episode_metrics, group_metrics
from accord.learn.online.roles import Roles, critic_learning_rate, critic_warmup_steps
from accord.learn.online.sampling import PromptOrder, sample_and_score
from accord.learn.online.saved_episodes import load_episodes, save_episodes
from accord.learn.online.step import Iteration, PtxRows, optimiser_step
from accord.lm.forward import share_forward_pass
from accord.objectives.policy import adapted_beta
from accord.records import PromptOnly
from accord.runs import digest_json
from accord.settings.identity import identity_settings
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)

MAX_SKIPPED = 3  # iterations in a row that are not finite; the last of them raises


def run_iterations(
    method: str | OnlineMethod[Any],
    state: TrainState[OnlineState],
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    *,
    iterations: int,
    folder: Path | None = None,
    ptx_rows: PtxRows | None = None,
) -> Iterator[StepResult]:
    """Iterate by a method (or that of a name in ONLINE) from `state.step`, yielding after each.

    Episodes are saved in the folder while they are needed. An iteration whose loss, gradient or
    logits in sampling are not finite is rolled back and skipped. Raises NotFiniteError where that
    is impossible, or at the third in a row, and TrainingError when the policy's log-probs before an
    iteration's first step are not those that were recorded. Ends early where `max_kl` is exceeded
    and `apply_kl_limit` stops the run.
    """
    method = ONLINE[method] if isinstance(method, str) else method
    order = PromptOrder(prompts, records, RowOrder(len(prompts), settings.seed))
    progress = state.progress
    num_prompts = settings.prompts_per_iteration * state.begun_with
    while state.step < iterations and not progress.stopped:
        start_time = time.perf_counter()
        factor = _set_learning_rates(state, iterations, settings)
        start = state.step * num_prompts + progress.replaced_prompts
        log_step = should_log(state.step + 1, iterations, settings)
        collect = partial(load_or_collect_episodes, log=log_step, folder=folder)
        try:
            episodes, first_pass = collect(method, state, roles, order, start, settings)
        except NotFiniteError as error:  # before any step: no weights or gradients to undo
            yield StepResult(state.step + 1, iterations, _skip_sampling(state, error))
            continue
        kl_decision = apply_kl_limit(state, episodes, settings)
        metrics, beta = {"skipped": 0.0}, progress.beta
        if kl_decision.takes_steps:
            iteration = Iteration(
                method,
                roles,
                settings,
                episodes,
                method.targets(episodes, settings, beta),
                beta,
                policy_learns=state.step >= critic_warmup_steps(settings),
                first_pass=first_pass,
                ptx_rows=ptx_rows,
                passes=passes_per_process(settings, state),
            )
            metrics |= iteration.targets.metrics | _optimise_or_skip(state, iteration, folder)
        if first_pass is not None:
            first_pass.release()
        metrics |= {**episodes.sampling, **episode_metrics(episodes, settings, beta)}
        if method.logs_group_metrics:
            metrics |= group_metrics(episodes, settings)
        state.step += 1
        _adapt_beta(state, metrics, settings, len(episodes.scores))
        progress.stopped = kl_decision.stops
        progress.num_tokens += episodes.num_tokens
        num_drawn = max(episodes.positions) + 1
        progress.replaced_prompts = num_drawn - state.step * num_prompts
        metrics |= {
            "epoch": num_drawn / len(prompts),
            "learning_rate": factor * settings.learning_rate,
            "num_tokens": float(progress.num_tokens),
            "seconds": time.perf_counter() - start_time,
            **kl_decision.metrics,
        }
        yield StepResult(state.step, state.step if kl_decision.stops else iterations, metrics)


def load_or_collect_episodes(
    method: OnlineMethod,
    state: TrainState[OnlineState],
    roles: Roles,
    order: PromptOrder,
    start: int,
    settings: OnlineSettings,
    *,
    log: bool,
    folder: Path | None,
) -> tuple[Episodes, SavedForward | None]:
    """The iteration's episodes, of prompts from position `start` of the order on: those that a
    killed run saved, or new ones, which are saved.

    All processes return the same; the main one reads and writes them.
    """
    procs, iteration = processes(), state.step
    num_prompts = settings.prompts_per_iteration * state.begun_with
    positions = range(start, start + num_prompts)
    collect = partial(
        collect_episodes,
        method,
        roles,
        order,
        positions,
        settings,
        iteration,
        log=log,
        passes=passes_per_process(settings, state),
    )
    if folder is None:
        return collect()
    identity = {
        "settings": digest_json(identity_settings(settings)),
        "prompts": digest_json([list(p) for p in order.batch(positions).prompts]),
        "entropy": log,
    }
    if settings.resume:
        saved = None
        if procs.is_main:
            saved = load_episodes(folder, iteration, order, identity)
        saved = procs.broadcast(saved)
        if saved is not None:
            return saved, None
    episodes, first_pass = collect()
    if procs.is_main:
        save_episodes(folder, iteration, episodes, identity)
    return episodes, first_pass


def collect_episodes(
    method: OnlineMethod,
    roles: Roles,
    order: PromptOrder,
    positions: range,
    settings: OnlineSettings,
    iteration: int,
    *,
    log: bool = True,
    passes: int | None = None,
) -> tuple[Episodes, SavedForward | None]:
    """Sample, score and measure: a function of weights, prompts, seed and iteration alone.

    The policy's log-probs are computed before the steps only where the reward needs them (a KL on
    the tokens), `max_kl` does, or several steps are taken from the same episodes.
    """
    scored = sample_and_score(roles, order.batch(positions), settings)
    scored = replace_equal_groups(scored, roles, order, settings)
    kl_in_reward = settings.needs_reference and method.kl_loss is None
    steps = settings.epochs * settings.num_mini_batches
    step_passes = [
        micro_batches(
            scored.rollouts.groups,
            minibatch,
            count=passes or settings.gradient_accumulation_steps,
            max_tokens=settings.max_tokens_per_forward,
            procs=processes(),
            lockstep=roles.is_sharded,
        )
        for minibatch in minibatches(range(len(positions)), settings, iteration, epoch=0)
    ]
    policy_learns = iteration >= critic_warmup_steps(settings)
    # The saved graph would hold the log-probs alone, not an entropy or a shared critic's values.
    saves_graph = (
        policy_learns
        and not roles.is_sharded
        and not settings.entropy_coef
        and not share_forward_pass(roles.policy, roles.critic)
    )
    episodes, first_pass = measure_rollouts(
        roles,
        scored.rollouts,
        scored.scores,
        step_passes,
        temperature=settings.temperature,
        reference=settings.needs_reference,
        old=kl_in_reward or settings.max_kl is not None or steps > 1,
        entropy=log,
        save_graph=saves_graph,
    )
    episodes = replace(
        episodes,
        positions=scored.positions,
        sampling=scored.metrics,
        discarded_tokens=scored.discarded_tokens,
    )
    return episodes, first_pass


def passes_per_process(settings: OnlineSettings, state: TrainState[OnlineState]) -> int:
    """Forward passes of each process in an optimiser step, which has the episodes of the processes
    that the run began with."""
    share = state.begun_with / processes().world_size
    return math.ceil(settings.gradient_accumulation_steps * share)


def optimise(state: TrainState[OnlineState], iteration: Iteration) -> Iterator[dict[str, Metric]]:
    """The epochs of minibatch steps over an iteration's active prompts; yields each step's
    metrics."""
    active = iteration.targets.active.nonzero().squeeze(1).tolist()
    settings, first_epoch = iteration.settings, state.step * iteration.settings.epochs
    for epoch in range(settings.epochs):
        for i, minibatch in enumerate(minibatches(active, settings, state.step, epoch)):
            yield optimiser_step(
                state,
                iteration,
                minibatch,
                number=(first_epoch + epoch) * settings.num_mini_batches + i,
                is_first=epoch == 0 and i == 0,
            )


def _optimise_or_skip(
    state: TrainState[OnlineState], iteration: Iteration, folder: Path | None
) -> dict[str, float]:
    """The mean metrics of the iteration's steps; where one is not finite, all are rolled back."""
    settings, progress = iteration.settings, state.progress
    several_steps = settings.epochs * settings.num_mini_batches > 1
    if settings.snapshot_storage != "off" and (several_steps or settings.rolls_back):
        take_snapshot(state, settings.snapshot_storage, folder)
    parts: list[dict[str, Metric]] = []
    try:
        for step_metrics in optimise(state, iteration):
            parts.append(step_metrics)
    except NotFiniteError as error:
        progress.skipped += 1
        if progress.skipped == MAX_SKIPPED:
            raise
        if parts and not state.snapshot:
            raise NotFiniteError(
                f"{error} With rollback_copy=memory (or disk) such an iteration is rolled back "
                f"and skipped."
            ) from error
        if parts:
            restore_snapshot(state)
        clear_gradients(state)
        log.warning("Iteration %d is rolled back and skipped: %s", state.step + 1, error)
        return {"skipped": 1.0}
    finally:
        if not settings.rolls_back:
            state.snapshot = {}
    progress.skipped = 0
    return mean_metrics(parts)


def _skip_sampling(state: TrainState[OnlineState], error: NotFiniteError) -> dict[str, float]:
    """Skip an iteration in whose sampling or measuring a number was not finite, back to the last
    snapshot if there is one; returns its metrics. Raises the error at the third in a row."""
    progress = state.progress
    progress.skipped += 1
    if progress.skipped == MAX_SKIPPED:
        raise error
    if state.snapshot:
        restore_snapshot(state)
    state.step += 1
    log.warning("Iteration %d is taken back and skipped: %s", state.step, error)
    return {"skipped": 1.0, "num_tokens": float(progress.num_tokens)}


def _adapt_beta(
    state: TrainState[OnlineState],
    metrics: dict[str, float],
    settings: OnlineSettings,
    num_episodes: int,
) -> None:
    if settings.adaptive_kl_target is None or "objective/kl" not in metrics:
        return
    if metrics["skipped"]:  # it may have ended before all episodes were measured
        return
    state.progress.beta = adapted_beta(
        state.progress.beta,
        metrics["objective/kl"],
        target=settings.adaptive_kl_target,
        episodes=num_episodes,
        horizon=settings.adaptive_kl_horizon,
    )


def _set_learning_rates(
    state: TrainState[OnlineState], iterations: int, settings: OnlineSettings
) -> float:
    """Set all learning rates; returns them as a share of their peaks."""
    factor, scale = 0.0, state.progress.rate_scale
    peaks = {"policy": settings.learning_rate, "critic": critic_learning_rate(settings)}
    for name, learner in state.learners.items():
        peak = scale * peaks[name]
        factor = scale * set_learning_rate(learner, state.step, iterations, settings, peak)
    return factor
