"""One optimiser step of an iteration: policy, critic and PPO-ptx, one forward pass at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from accord.learn.loop.deferred import Errors
from accord.learn.loop.fit import apply_gradients, check_finite, clip_and_check, sum_gradients
from accord.learn.loop.objective import Metric, metric, sum_metrics
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import RowOrder, balance_by_tokens, own_passes
from accord.learn.loop.state import TrainState
from accord.learn.online.episodes import (
    Episodes,
    SavedForward,
    all_gather_rows,
    all_micro_batches,
    select_groups,
    write_flat,
)
from accord.learn.online.guards import OnlineState, check_ratio_is_one
from accord.learn.online.methods import (
    OnlineMethod,
    PolicyTerms,
    Targets,
)
from accord.learn.online.ratio_metrics import ratio_metrics
from accord.learn.online.roles import Roles
from accord.lm.forward import (
    ResponseStats,
    response_logps,
    response_stats,
    share_forward_pass,
    token_values,
)
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.divergences import kl_k3
from accord.objectives.policy import clipped_value_loss, importance_weights, token_weights
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings


@dataclass(frozen=True, slots=True)
class PtxRows:
    """The rows of PPO-ptx, whose likelihood is trained on beside the episodes, and their order."""

    rows: Sequence[PromptGroup]
    order: RowOrder


@dataclass(frozen=True, slots=True)
class Iteration:
    """What all optimiser steps of an iteration share.

    `policy_learns` is False during the critic's warm-up; `first_pass` is a forward pass whose
    graph was saved; `ptx_rows` the rows of PPO-ptx; `passes` the forward passes of each process in
    a step, by default `gradient_accumulation_steps`.
    """

    method: OnlineMethod[OnlineSettings]
    roles: Roles
    settings: OnlineSettings
    episodes: Episodes
    targets: Targets
    beta: float
    policy_learns: bool = True
    first_pass: SavedForward | None = None
    ptx_rows: PtxRows | None = None
    passes: int | None = None


def optimiser_step(
    state: TrainState[OnlineState],
    iteration: Iteration,
    prompts: Sequence[int],
    *,
    number: int,
    is_first: bool,
) -> dict[str, Metric]:
    """One step of policy and critic on the episodes of some prompts (a minibatch).

    `number` counts the run's optimiser steps; `is_first` marks an iteration's first. Several
    processes share the forward passes, and all take the same step. Raises NotFiniteError before
    any weight has changed.
    """
    settings, episodes, procs = iteration.settings, iteration.episodes, processes()
    rows = episodes.episodes_of_prompts(prompts)
    parts_of_all = all_micro_batches(
        episodes.groups,
        prompts,
        count=iteration.passes or settings.gradient_accumulation_steps,
        max_tokens=settings.max_tokens_per_forward,
        procs=procs,
    )
    passes = list(own_passes(parts_of_all, procs, lockstep=iteration.roles.is_sharded))
    fills_old_logps = not bool(episodes.known[rows].all())
    parts: list[dict[str, Metric]] = [{"loss": (0.0, 1.0)}]
    for shard in procs.run_on_all(
        lambda: _accumulate_gradients(state, iteration, rows, passes, number, is_first)
    ):
        parts += shard
    if fills_old_logps:
        all_gather_rows(episodes, [e for part, _ in passes for e in part], procs)
    groups = [episodes.groups[p] for p in prompts]
    learning = {
        name: learner
        for name, learner in state.learners.items()
        if iteration.policy_learns or name != "policy"
    }
    for name, learner in learning.items():
        sum_gradients(learner, procs)
        norm = clip_and_check(learner, settings.max_grad_norm, state.step + 1, groups)
        parts.append({f"grad_norm/{name}": (norm, 1.0)})
    for learner in learning.values():
        apply_gradients(learner)
    return sum_metrics(parts)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One forward pass: its episodes, its packed batch, and the weight of each token (R,)."""

    rows: list[int]
    mask: Tensor
    batch: PackedBatch
    weights: Tensor
    is_first: bool
    errors: Errors

    def flat(self, padded: Tensor) -> Tensor:
        """The pass's response tokens (R,) of a padded tensor (E, T)."""
        return _flat(padded, self.rows, self.mask, self.batch.device)


def _flat(padded: Tensor, rows: list[int], mask: Tensor, device: torch.device) -> Tensor:
    return padded[rows][mask].to(device)


def _accumulate_gradients(
    state: TrainState[OnlineState],
    iteration: Iteration,
    rows: Sequence[int],
    passes: Sequence[tuple[list[int], bool]],
    number: int,
    is_first: bool,
) -> list[dict[str, Metric]]:
    """Add up the gradients of this process's passes of a step on the episodes `rows`.

    Of a pass that does not count (see `own_passes`) the weights are 0. Where models are sharded an
    error is raised behind the last pass, since the others wait for each of them.
    """
    errors = Errors(deferred=iteration.roles.is_sharded)
    settings, episodes = iteration.settings, iteration.episodes
    weights = torch.zeros(len(episodes.scores))
    weights[rows] = token_weights(
        episodes.lengths[rows], kind=settings.loss_type, longest=settings.max_new_tokens
    )
    token_grid = weights[:, None].expand(episodes.mask.shape)
    parts: list[dict[str, Metric]] = []
    for part, counts in passes:
        groups = select_groups(episodes.groups, part)
        batch = pack(groups, iteration.roles.policy.device)
        mask = episodes.mask[part]
        token_share = _flat(token_grid, part, mask, batch.device)
        forward = _Pass(part, mask, batch, token_share * counts, is_first, errors)
        for loss, metrics in _losses(iteration, forward):
            loss_metric = _backward(loss, state, groups, errors)
            parts += [metrics, loss_metric] if counts else []
        if iteration.first_pass is not None:
            iteration.first_pass.release()
    if iteration.policy_learns and iteration.ptx_rows is not None:
        parts += _ptx_loss(state, iteration, iteration.ptx_rows, number, errors)
    errors.raise_first()
    return parts


def _losses(iteration: Iteration, forward: _Pass) -> Iterator[tuple[Tensor, dict[str, Metric]]]:
    """The weighted losses of a pass, each with metrics.

    The caller goes backward from one before it asks for the next, so that one graph is in memory
    at a time. Policy and critic that share a pass have one loss.
    """
    policy, critic = iteration.roles.policy, iteration.roles.critic
    learns_values = iteration.targets.returns is not None and critic is not None
    if learns_values and share_forward_pass(policy, critic):
        stats = _forward(iteration, forward, shares_critic=True)
        assert stats.values is not None
        loss, metrics = _value_loss(iteration, stats.values, forward)
        if iteration.policy_learns:
            policy_loss, policy_metrics = _policy_loss(iteration, stats, forward)
            loss, metrics = loss + policy_loss, metrics | policy_metrics
        yield loss, metrics
        return
    if iteration.policy_learns:
        yield _policy_loss(iteration, _forward(iteration, forward), forward)
    if learns_values:
        assert critic is not None
        yield _value_loss(iteration, token_values(critic, forward.batch), forward)


def _has_old_logps(iteration: Iteration, forward: _Pass) -> bool:
    """Whether the old log-probs of a pass are known; if not, they are this pass's own."""
    return bool(iteration.episodes.known[forward.rows].all())


def _forward(iteration: Iteration, forward: _Pass, *, shares_critic: bool = False) -> ResponseStats:
    """The policy's log-probs, with entropies where they are trained on or logged."""
    settings, saved = iteration.settings, iteration.first_pass
    reuses_saved = forward.is_first and saved is not None and saved.rows == forward.rows
    if reuses_saved and saved is not None and saved.logps is not None:
        return ResponseStats(saved.logps)
    logs_entropy = iteration.episodes.entropy is not None and not _has_old_logps(iteration, forward)
    return response_stats(
        iteration.roles.policy,
        forward.batch,
        want={"entropy"} if logs_entropy else (),
        temperature=settings.temperature,
        entropy_grad=settings.entropy_coef > 0 and iteration.policy_learns,
        critic=iteration.roles.critic if shares_critic else None,
        policy_grad=iteration.policy_learns,
    )


def _policy_loss(
    iteration: Iteration, stats: ResponseStats, forward: _Pass
) -> tuple[Tensor, dict[str, Metric]]:
    settings, episodes, logps = iteration.settings, iteration.episodes, stats.logps
    if not _has_old_logps(iteration, forward):  # the ratio is 1
        write_flat(episodes.old_logps, forward.rows, episodes.mask, logps)
        episodes.known[forward.rows] = True
        if stats.entropy is not None and episodes.entropy is not None:
            write_flat(episodes.entropy, forward.rows, episodes.mask, stats.entropy)
    old_logps = forward.flat(episodes.old_logps)
    sampler_logps = forward.flat(episodes.sampler_logps)
    advantages = forward.flat(iteration.targets.advantages)
    log_ratio = logps - old_logps
    if forward.is_first:
        check = partial(
            check_ratio_is_one,
            log_ratio,
            old_logps - sampler_logps,
            precision=settings.precision,
            off_policy=episodes.off_policy,
        )
        forward.errors.run(check)
    terms = PolicyTerms(logps, log_ratio, advantages, forward.batch)
    surrogate = iteration.method.surrogate(terms, settings)
    policy_loss = surrogate.values
    metrics: dict[str, Metric] = {}
    if episodes.off_policy:
        weights = importance_weights(old_logps, sampler_logps, cap=settings.sampler_importance_cap)
        policy_loss = policy_loss * weights
        metrics["sampler/weight_mean"] = metric(weights)
        metrics["sampler/mismatch_kl"] = metric(kl_k3(sampler_logps - old_logps))
    loss = policy_loss
    if iteration.method.kl_loss is not None and episodes.ref_logps is not None:
        ref_log_ratio = logps - forward.flat(episodes.ref_logps)
        kl = iteration.method.kl_loss(ref_log_ratio, log_ratio, settings)
        loss = loss + iteration.beta * kl
        metrics["loss/kl_avg"] = metric(kl)
    if settings.entropy_coef:
        assert stats.entropy is not None
        loss = loss - settings.entropy_coef * stats.entropy
    metrics |= ratio_metrics(
        iteration.method, settings, policy_loss, log_ratio, surrogate.log_ratio, advantages
    )
    return (loss * forward.weights).sum(), metrics


def _value_loss(
    iteration: Iteration, values: Tensor, forward: _Pass
) -> tuple[Tensor, dict[str, Metric]]:
    settings = iteration.settings
    assert isinstance(settings, PpoSettings)
    assert iteration.episodes.values is not None
    assert iteration.targets.returns is not None
    old_values = forward.flat(iteration.episodes.values)
    returns = forward.flat(iteration.targets.returns)
    clip = settings.cliprange_value
    loss = clipped_value_loss(values, old_values, returns, clip=clip)
    is_clipped = (values.detach() - old_values).abs() > clip
    metrics = {"loss/value_avg": metric(loss), "val/clipfrac_avg": metric(is_clipped.float())}
    return settings.vf_coef * (loss * forward.weights).sum(), metrics


def _ptx_loss(
    state: TrainState[OnlineState],
    iteration: Iteration,
    ptx_rows: PtxRows,
    number: int,
    errors: Errors,
) -> list[dict[str, Metric]]:
    """InstructGPT's third term (eq. 2): −coefficient · mean log-prob of ptx_rows tokens."""
    settings = iteration.settings
    assert isinstance(settings, PpoSettings)
    size = settings.ptx_batch_size
    order = ptx_rows.order.slice(number * size, (number + 1) * size)
    rows = [ptx_rows.rows[i] for i in order]
    num_tokens = sum(group.num_targets for group in rows)
    procs, policy = processes(), iteration.roles.policy
    count = min(len(rows), settings.gradient_accumulation_steps * procs.world_size)
    passes = balance_by_tokens(
        [g.num_tokens for g in rows],
        count,
        max_tokens=settings.max_tokens_per_forward,
        multiple=procs.world_size,
    )
    parts: list[dict[str, Metric]] = []
    for part, counts in own_passes(passes, procs, lockstep=policy.sharded is not None):
        groups = [rows[i] for i in part]
        logps = response_logps(policy, pack(groups, policy.device))
        loss = -settings.ptx_coef * counts / num_tokens * logps.sum()
        loss_metric = _backward(loss, state, groups, errors)
        parts += [{"loss/ptx_avg": metric(-logps)}, loss_metric] if counts else []
    return parts


def _backward(
    loss: Tensor, state: TrainState[OnlineState], groups: Sequence[PromptGroup], errors: Errors
) -> dict[str, Metric]:
    loss_value = float(loss.detach())
    errors.run(partial(check_finite, loss_value, "loss", state.step + 1, groups))
    loss.backward()
    return {"loss": (loss_value, 0.0)}
