"""One optimiser step of an iteration: policy, critic and PPO-ptx, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accord.errors import TrainingError
from accord.learn.loop.checkpoints import TrainState
from accord.learn.loop.fit import apply_gradients, check_finite, clipped_norm
from accord.learn.loop.objective import Metric, metric
from accord.learn.loop.order import RowOrder
from accord.learn.loop.passes import deal
from accord.learn.loop.processes import processes
from accord.learn.online.episodes import Episodes, fill, part_of, passes_of, share_rows
from accord.learn.online.methods import OnlineMethod
from accord.learn.online.metrics import Targets
from accord.learn.online.roles import Roles
from accord.learn.online.rollout import Held, drop
from accord.lm.forward import (
    response_logps,
    response_logps_and_entropy,
    share_forward_pass,
    shared_pass,
    token_values,
)
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.divergences import kl_k3
from accord.objectives.policy import (
    clipped_policy_loss,
    clipped_value_loss,
    importance_weights,
    kl_loss,
    token_weights,
)

# Mean |log ratio| allowed before the first step: to the pass before, and to sampling. A single
# token of a deep model in bf16 may be off by more.
RATIO_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
SAMPLER_TOLERANCE = {"fp32": 1e-2, "bf16": 0.1}


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Rows whose likelihood PPO-ptx holds up, and the order in which they come."""

    rows: Sequence[PromptGroup]
    order: RowOrder


@dataclass(frozen=True, slots=True)
class Work:
    """An iteration's work: on which episodes, towards what, and whether the policy learns yet.

    `held` is a first pass whose graph was kept; `log`: entropies are wanted. `settings` are the
    method's own.
    """

    method: OnlineMethod
    roles: Roles
    settings: Any
    episodes: Episodes
    targets: Targets
    beta: float
    learns: bool = True
    log: bool = True
    held: Held | None = None
    pretraining: Pretraining | None = None


def take_step(
    state: TrainState, work: Work, members: Sequence[int], *, number: int, first: bool
) -> dict[str, Metric]:
    """One step of policy and critic on some prompts' episodes, in as many passes as set.

    `number` counts the run's optimiser steps, `first` is an iteration's first. Several processes
    deal the passes out among them; all take the same step. Raises NotFiniteError before any weight
    has moved.
    """
    settings, episodes, team = work.settings, work.episodes, processes()
    rows = episodes.rows_of(members)
    passes = passes_of(
        episodes.groups,
        members,
        count=settings.gradient_accumulation_steps,
        most=settings.max_tokens_per_forward,
        team=team,
    )
    new = not bool(episodes.known[rows].all())
    parts: list[dict[str, Metric]] = [{"loss": (0.0, 1.0)}]
    for share in team.run_on_all(lambda: _gradients(state, work, rows, passes, number, first)):
        parts += share
    if new:
        share_rows(episodes, [e for part in passes for e in part], team)
    everyone = [episodes.groups[p] for p in members]
    learning = {n: x for n, x in state.learners.items() if work.learns or n != "policy"}
    for name, learner in learning.items():
        team.all_reduce_gradients(learner.parameters.values())
        norm = clipped_norm(learner, settings.max_grad_norm, state.step + 1, everyone)
        parts.append({f"grad_norm/{name}": (norm, 1.0)})
    for learner in learning.values():
        apply_gradients(learner)
    return _added(parts)


def _gradients(
    state: TrainState,
    work: Work,
    rows: Sequence[int],
    passes: Sequence[list[int]],
    number: int,
    first: bool,
) -> list[dict[str, Metric]]:
    """Add up the gradients of some passes of a step on the episodes `rows`."""
    settings, episodes = work.settings, work.episodes
    weights = torch.zeros(len(episodes.scores))
    weights[rows] = token_weights(
        episodes.lengths[rows], kind=settings.loss_type, longest=settings.max_new_tokens
    )
    parts: list[dict[str, Metric]] = []
    for part in passes:
        groups = part_of(episodes.groups, part)
        batch = pack(groups, work.roles.policy.device)
        token = _Tokens(part, episodes.mask[part], batch.device)
        share = token(weights[:, None].expand(episodes.mask.shape))
        for loss, found in _losses(work, batch, token, share, first):
            parts += [found, _backward(loss, state, groups)]
        drop(work.held)
    if work.learns and work.pretraining is not None:
        parts += _pretrain(state, work, work.pretraining, number)
    return parts


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Reads a pass's tokens (R,) off a grid (E, T)."""

    rows: list[int]
    mask: Tensor
    device: torch.device

    def __call__(self, grid: Tensor) -> Tensor:
        return grid[self.rows][self.mask].to(self.device)


def _losses(
    work: Work, batch: PackedBatch, token: _Tokens, share: Tensor, first: bool
) -> Iterator[tuple[Tensor, dict[str, Metric]]]:
    """The weighted losses of a pass's tokens, each with metrics over them.

    The caller goes backward from one before it asks for the next, so that only one graph is in
    memory. Policy and critic that share a pass have one loss.
    """
    policy, critic = work.roles.policy, work.roles.critic
    if (
        work.targets.returns is not None
        and critic is not None
        and share_forward_pass(policy, critic)
    ):
        logps, entropy, values = shared_pass(
            policy,
            critic,
            batch,
            temperature=work.settings.temperature,
            learns=work.learns,
            entropy=_wants_entropy(work, token),
            entropy_learns=work.settings.entropy_coef > 0 and work.learns,
        )
        loss, metrics = _value_loss(work, values, token, share)
        if work.learns:
            more, found = _policy_loss(work, logps, entropy, token, share, first)
            loss, metrics = loss + more, metrics | found
        yield loss, metrics
        return
    if work.learns:
        logps, entropy = _forward(work, batch, token, first=first)
        yield _policy_loss(work, logps, entropy, token, share, first)
    if work.targets.returns is not None and critic is not None:
        yield _value_loss(work, token_values(critic, batch), token, share)


def _new(work: Work, token: _Tokens) -> bool:
    """Whether a pass's log-probs are its tokens' own old ones, not known before."""
    return not bool(work.episodes.known[token.rows].all())


def _wants_entropy(work: Work, token: _Tokens) -> bool:
    return _new(work, token) and work.episodes.entropy is not None


def _policy_loss(
    work: Work,
    logps: Tensor,
    entropy: Tensor | None,
    token: _Tokens,
    share: Tensor,
    first: bool,
) -> tuple[Tensor, dict[str, Metric]]:
    settings, episodes = work.settings, work.episodes
    if _new(work, token):  # the ratio is 1
        fill(episodes.old_logps, token.rows, episodes.mask, logps)
        episodes.known[token.rows] = True
        if entropy is not None and episodes.entropy is not None:
            fill(episodes.entropy, token.rows, episodes.mask, entropy)
    old, advantages = token(episodes.old_logps), token(work.targets.advantages)
    sampled = token(episodes.sampler_logps)
    log_ratio = logps - old
    if first:
        _same_policy(log_ratio, old - sampled, settings.precision, episodes.off_policy)
    high = settings.cliprange if settings.cliprange_high is None else settings.cliprange_high
    policy_loss = clipped_policy_loss(
        log_ratio, advantages, clip_low=settings.cliprange, clip_high=high
    )
    metrics: dict[str, Metric] = {}
    if episodes.off_policy:
        weights = importance_weights(old, sampled, cap=settings.sampler_importance_cap)
        policy_loss = policy_loss * weights
        metrics["sampler/weight_mean"] = metric(weights)
        metrics["sampler/mismatch_kl"] = metric(kl_k3(sampled - old))
    loss = policy_loss
    if work.method.kl_in_loss and episodes.ref_logps is not None:
        kl = kl_loss(
            logps - token(episodes.ref_logps), log_ratio, corrected=settings.use_bias_correction_kl
        )
        loss = loss + work.beta * kl
        metrics["loss/kl_avg"] = metric(kl)
    if settings.entropy_coef:
        assert entropy is not None
        loss = loss - settings.entropy_coef * entropy
    with torch.no_grad():
        ratio = log_ratio.exp()
        below, above = ratio < 1 - settings.cliprange, ratio > 1 + high
        metrics |= {
            "loss/policy_avg": metric(policy_loss),
            "policy/approxkl_avg": metric(kl_k3(-log_ratio)),
            "policy/clipfrac_avg": metric((below | above).float()),
            "val/ratio": metric(ratio),
            "val/ratio_var": metric((ratio - ratio.mean()).square()),
        }
        if work.method.groups:
            metrics["clip_ratio/low_mean"] = metric((below & (advantages < 0)).float())
            metrics["clip_ratio/high_mean"] = metric((above & (advantages > 0)).float())
    return (loss * share).sum(), metrics


def _forward(
    work: Work, batch: PackedBatch, token: _Tokens, *, first: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (R,) with gradient, and entropies (R,) where they are learned from or told."""
    settings, held = work.settings, work.held
    if first and held is not None and held.rows == token.rows and held.logps is not None:
        return held.logps, None
    policy, temperature = work.roles.policy, settings.temperature
    learned = settings.entropy_coef > 0
    if learned or _wants_entropy(work, token):
        return response_logps_and_entropy(
            policy, batch, temperature=temperature, entropy_learns=learned
        )
    return response_logps(policy, batch, temperature=temperature), None


def _value_loss(
    work: Work, values: Tensor, token: _Tokens, share: Tensor
) -> tuple[Tensor, dict[str, Metric]]:
    old_grid, returns = work.episodes.values, work.targets.returns
    assert old_grid is not None
    assert returns is not None
    clip, old = work.settings.cliprange_value, token(old_grid)
    loss = clipped_value_loss(values, old, token(returns), clip=clip)
    moved = (values.detach() - old).abs() > clip
    metrics = {"loss/value_avg": metric(loss), "val/clipfrac_avg": metric(moved.float())}
    return work.settings.vf_coef * (loss * share).sum(), metrics


def _pretrain(
    state: TrainState, work: Work, pretraining: Pretraining, number: int
) -> list[dict[str, Metric]]:
    """InstructGPT's third term (eq. 2): −coefficient · mean log-prob of other rows' tokens."""
    settings = work.settings
    size = settings.ptx_batch_size
    places = pretraining.order.slice(number * size, (number + 1) * size)
    rows = [pretraining.rows[i] for i in places]
    tokens = sum(group.num_targets for group in rows)
    team, most = processes(), settings.max_tokens_per_forward
    count = min(len(rows), settings.gradient_accumulation_steps * team.world_size)
    dealt = deal([g.num_tokens for g in rows], count, most=most, multiple=team.world_size)
    parts: list[dict[str, Metric]] = []
    for part in dealt[team.rank :: team.world_size]:
        groups = [rows[i] for i in part]
        logps = response_logps(work.roles.policy, pack(groups, work.roles.policy.device))
        parts.append({"loss/ptx_avg": metric(-logps)})
        parts.append(_backward(-settings.ptx_coef / tokens * logps.sum(), state, groups))
    return parts


def _backward(loss: Tensor, state: TrainState, groups: Sequence[PromptGroup]) -> dict[str, Metric]:
    told = float(loss.detach())
    check_finite(told, "loss", state.step + 1, groups)
    loss.backward()
    return {"loss": (told, 0.0)}


def _same_policy(log_ratio: Tensor, to_sampler: Tensor, precision: str, off_policy: bool) -> None:
    """Before the first step of an iteration the ratio must be 1, and so must be that to what was
    sampled from, where it is the same model; raise where they are not."""
    mean = float(log_ratio.detach().abs().mean())
    if mean > RATIO_TOLERANCE[precision]:
        raise TrainingError(
            f"Before the first step the policy's log-probs differ by {mean:.3g} nats on average "
            f"from those recorded for the same tokens, so the ratio is not 1. The model does not "
            f"give the same numbers twice: look for dropout or state in it."
        )
    mean = float(to_sampler.detach().abs().mean())
    if not off_policy and mean > SAMPLER_TOLERANCE[precision]:
        raise TrainingError(
            f"Before the first step the policy's log-probs differ by {mean:.3g} nats on average "
            f"from those its tokens were sampled with, so the ratio is not 1. The model does not "
            f"give the same numbers twice: look for dropout or state in it."
        )


def _added(parts: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    sums: dict[str, list[float]] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            entry = sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight
    return {name: (total, weight) for name, (total, weight) in sums.items()}
