"""An iteration's `Episodes`: scored rollouts, measured under policy, reference and critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from accord.compare.rewards.reward import RewardScores
from accord.learn.loop.processes import processes
from accord.learn.online.dynamic_sampling import replace_equal_groups
from accord.learn.online.episodes import (
    Episodes,
    all_gather_rows,
    length_mask,
    micro_batches,
    minibatches,
    pad_flat,
    select_groups,
    write_flat,
)
from accord.learn.online.methods import OnlineMethod
from accord.learn.online.roles import Roles, critic_warmup_steps
from accord.learn.online.sampling import PromptOrder, Rollouts, sample_and_score
from accord.learn.online.saved_episodes import load_episodes, save_episodes
from accord.lm.forward import response_logps, response_stats, share_forward_pass, token_values
from accord.lm.packing import PackedBatch, pack
from accord.runs import digest_json
from accord.settings.identity import identity_settings
from accord.settings.online import OnlineSettings


@dataclass(slots=True)
class SavedForward:
    """A forward pass with its graph, saved for the first optimiser step: its episodes, and the
    log-probs (R,) of their tokens until the graph is released."""

    rows: list[int]
    logps: Tensor | None

    def release(self) -> None:
        """Free the graph and its activations."""
        self.logps = None


def load_or_collect_episodes(
    method: OnlineMethod,
    iteration: int,
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
    procs = processes()
    num_prompts = settings.prompts_per_iteration * procs.world_size
    positions = range(start, start + num_prompts)
    if folder is None:
        return collect_episodes(method, roles, order, positions, settings, iteration, log=log)
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
    episodes, first_pass = collect_episodes(
        method, roles, order, positions, settings, iteration, log=log
    )
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
) -> tuple[Episodes, SavedForward | None]:
    """Sample, score and measure: a function of weights, prompts, seed and iteration alone.

    The policy's log-probs are computed before the steps only where the reward needs them (a KL on
    the tokens), `max_kl` does, or several steps are taken from the same episodes.
    """
    scored = sample_and_score(roles, order.batch(positions), settings)
    scored = replace_equal_groups(scored, roles, order, settings)
    kl_in_reward = settings.needs_reference and method.kl_loss is None
    steps = settings.epochs * settings.num_mini_batches
    passes = [
        micro_batches(
            scored.rollouts.groups,
            minibatch,
            count=settings.gradient_accumulation_steps,
            max_tokens=settings.max_tokens_per_forward,
            procs=processes(),
        )
        for minibatch in minibatches(range(len(positions)), settings, iteration, epoch=0)
    ]
    policy_learns = iteration >= critic_warmup_steps(settings)
    # The saved graph would hold the log-probs alone, not an entropy or a shared critic's values.
    saves_graph = (
        policy_learns
        and not settings.entropy_coef
        and not share_forward_pass(roles.policy, roles.critic)
    )
    episodes, first_pass = measure_rollouts(
        roles,
        scored.rollouts,
        scored.scores,
        passes,
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


def measure_rollouts(
    roles: Roles,
    rollouts: Rollouts,
    scores: RewardScores,
    passes: Sequence[Sequence[list[int]]],
    *,
    temperature: float,
    reference: bool,
    old: bool,
    entropy: bool,
    save_graph: bool = False,
) -> tuple[Episodes, SavedForward | None]:
    """Episodes from scored rollouts: log-probs and values, one forward pass at a time.

    `passes` holds the episodes of each forward pass of each optimiser step, of several processes
    this one's; measured in the passes that train, the first ratio is 1 to the bit. `reference`,
    `old` and `entropy` say what is measured besides values. With `save_graph`, the pass of a first
    step that has only one keeps its graph, so that the step need not compute it again.

    Log-probs are recomputed here, never taken from the sampler.
    """
    groups = rollouts.groups
    mask = length_mask([len(r) for g in groups for r in g.responses])
    episodes = Episodes(
        groups=groups,
        texts=rollouts.texts,
        mask=mask,
        scores=torch.tensor(scores.total),
        finished=torch.tensor(rollouts.finished),
        sampler_logps=pad_flat(torch.tensor(rollouts.logps), mask),
        old_logps=torch.zeros(mask.shape),
        known=torch.full((len(mask),), old),
        ref_logps=torch.zeros(mask.shape) if reference else None,
        values=None if roles.critic is None else torch.zeros(mask.shape),
        entropy=torch.zeros(mask.shape) if entropy else None,
        off_policy=not rollouts.exact,
        by_source=scores.by_source,
    )
    first_pass = None
    numbered = list(enumerate(rows for step in passes for rows in step))
    # The first pass comes last: its graph stays in memory from then on.
    for number, rows in numbered[1:] + numbered[:1]:
        batch = pack(select_groups(groups, rows), roles.policy.device)
        with torch.no_grad():
            if episodes.ref_logps is not None and roles.reference is not None:
                logps = response_logps(roles.reference, batch, temperature=temperature)
                write_flat(episodes.ref_logps, rows, mask, logps)
            critic_alone = not (old and share_forward_pass(roles.policy, roles.critic))
            if episodes.values is not None and roles.critic is not None and critic_alone:
                write_flat(episodes.values, rows, mask, token_values(roles.critic, batch))
        if not old:
            continue
        keeps_graph = save_graph and number == 0 and len(passes[0]) == 1
        with torch.set_grad_enabled(keeps_graph):
            logps = _measure_policy(roles, batch, temperature, episodes, rows)
        write_flat(episodes.old_logps, rows, mask, logps)
        if keeps_graph:
            first_pass = SavedForward(rows, logps)
    all_gather_rows(episodes, [e for _, rows in numbered for e in rows], processes())
    return episodes, first_pass


def _measure_policy(
    roles: Roles,
    batch: PackedBatch,
    temperature: float,
    episodes: Episodes,
    rows: Sequence[int],
) -> Tensor:
    """The policy's log-probs (R,); entropies, where requested, and the values of a critic that
    shares the pass are written into the episodes."""
    shared_critic = roles.critic if share_forward_pass(roles.policy, roles.critic) else None
    stats = response_stats(
        roles.policy,
        batch,
        want=() if episodes.entropy is None else {"entropy"},
        temperature=temperature,
        critic=shared_critic,
    )
    if stats.values is not None and episodes.values is not None:
        write_flat(episodes.values, rows, episodes.mask, stats.values)
    if stats.entropy is not None and episodes.entropy is not None:
        write_flat(episodes.entropy, rows, episodes.mask, stats.entropy)
    return stats.logps
