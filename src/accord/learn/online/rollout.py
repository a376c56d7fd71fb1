"""Sample from the policy, score, and measure under policy, reference and critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.compare.rewards.reward import Reward, RewardScores, score_responses
from accord.learn.loop.processes import processes
from accord.learn.online.episodes import Episodes, fill, grid_mask, part_of, share_rows, to_grid
from accord.learn.online.roles import Roles
from accord.lm.forward import (
    response_logps,
    response_logps_and_entropy,
    share_forward_pass,
    shared_pass,
    token_values,
)
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.records import PromptOnly
from accord.respond.protocol import Sampler, SamplingSettings
from accord.respond.text import response_text


@dataclass(frozen=True, slots=True)
class Rollouts:
    """P prompts with their K responses: token groups, and in order of the E = P·K responses their
    texts without special tokens, who ended, the sampler's log-probs of their tokens, and whether
    the policy itself computed those."""

    groups: tuple[PromptGroup, ...]
    texts: tuple[str, ...]
    finished: tuple[bool, ...]
    logps: tuple[float, ...]
    exact: bool = True


@dataclass(slots=True)
class Held:
    """A forward pass with its graph, kept for the first optimiser step: which episodes it was
    over, and the log-probs (R,) of their tokens, until the graph is let go."""

    rows: list[int]
    logps: Tensor | None


def drop(held: Held | None) -> None:
    """Let a graph go, with its activations, once it was used or will not be."""
    if held is not None:
        held.logps = None


def answer(
    policy: LanguageModel,
    sampler: Sampler,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: SamplingSettings,
    *,
    seed: int,
    streams: Sequence[int],
) -> Rollouts:
    """K responses to each prompt."""
    found = sampler(prompts, settings, seed=seed, streams=streams)
    samples = [sample for own in found for sample in own]
    return Rollouts(
        tuple(
            PromptGroup(p, tuple(s.tokens for s in own), source=r.source)
            for p, own, r in zip(prompts, found, records, strict=True)
        ),
        tuple(response_text(s, policy.tokenizer) for s in samples),
        tuple(s.finished for s in samples),
        tuple(logp for s in samples for logp in s.logps),
        all(s.exact for s in samples),
    )


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """The answers of several processes, in their order."""
    return Rollouts(
        tuple(group for part in parts for group in part.groups),
        tuple(text for part in parts for text in part.texts),
        tuple(finished for part in parts for finished in part.finished),
        tuple(logp for part in parts for logp in part.logps),
        all(part.exact for part in parts),
    )


@torch.no_grad()
def score(reward: Reward, answered: Rollouts, records: Sequence[PromptOnly]) -> RewardScores:
    """The reward of all responses; each process asks it about those to its share of prompts."""
    team, k = processes(), len(answered.groups[0].responses)
    own = team.shard(len(records))
    rows = slice(own.start * k, own.stop * k)
    repeated = [records[p] for p in own for _ in range(k)]

    def ask() -> RewardScores:
        return score_responses(
            reward,
            [r.prompt for r in repeated],
            answered.texts[rows],
            answered.finished[rows],
            [r.meta for r in repeated],
        )

    shares = [share for share in team.run_on_all(lambda: ask() if repeated else None) if share]
    return RewardScores(
        [score for share in shares for score in share.total],
        {
            name: [score for share in shares for score in share.by_source[name]]
            for name in shares[0].by_source
        },
    )


def measure(
    roles: Roles,
    answered: Rollouts,
    scores: RewardScores,
    plan: Sequence[Sequence[list[int]]],
    *,
    temperature: float,
    reference: bool,
    old: bool,
    entropy: bool,
    hold: bool = False,
) -> tuple[Episodes, Held | None]:
    """Episodes from answered and scored prompts: log-probs and values pass by pass.

    `plan` holds the episodes of each pass of each step, of several processes this one's; with it
    measured as trained, the first ratio is 1 to the bit. `reference`, `old` and `entropy` say what
    is measured beside values. With `hold`, the pass of a first step that has one only keeps its
    graph, so that the step need not compute it again.

    Log-probs are recomputed here, by the passes that training uses, never taken from the sampler.
    """
    groups = answered.groups
    mask = grid_mask([len(r) for g in groups for r in g.responses])
    found = Episodes(
        groups=groups,
        texts=answered.texts,
        mask=mask,
        scores=torch.tensor(scores.total),
        finished=torch.tensor(answered.finished),
        sampler_logps=to_grid(torch.tensor(answered.logps), mask),
        old_logps=torch.zeros(mask.shape),
        known=torch.full((len(mask),), old),
        ref_logps=torch.zeros(mask.shape) if reference else None,
        values=None if roles.critic is None else torch.zeros(mask.shape),
        entropy=torch.zeros(mask.shape) if entropy else None,
        off_policy=not answered.exact,
        by_source=scores.by_source,
    )
    held = None
    passes = [rows for step in plan for rows in step]
    # The first pass comes last: its graph is held in memory from here on.
    numbered = list(enumerate(passes))
    for number, rows in numbered[1:] + numbered[:1]:
        batch = pack(part_of(groups, rows), roles.policy.device)
        with torch.no_grad():
            if found.ref_logps is not None and roles.reference is not None:
                logps = response_logps(roles.reference, batch, temperature=temperature)
                fill(found.ref_logps, rows, mask, logps)
            if roles.critic is not None and not (
                old and share_forward_pass(roles.policy, roles.critic)
            ):
                assert found.values is not None
                fill(found.values, rows, mask, token_values(roles.critic, batch))
        if not old:
            continue
        keeps = hold and number == 0 and len(plan[0]) == 1
        with torch.set_grad_enabled(keeps):
            logps = _policy_logps(roles, batch, temperature, found, rows)
        fill(found.old_logps, rows, mask, logps)
        held = Held(rows, logps) if keeps else held
    share_rows(found, [e for rows in passes for e in rows], processes())
    return found, held


def _policy_logps(
    roles: Roles,
    batch: PackedBatch,
    temperature: float,
    episodes: Episodes,
    rows: Sequence[int],
) -> Tensor:
    """The policy's log-probs; put in the episodes are the entropies, where they are wanted, and
    the values of a critic that shares the pass."""
    policy, critic, entropy = roles.policy, roles.critic, None
    if critic is not None and share_forward_pass(policy, critic):
        assert episodes.values is not None
        wanted = episodes.entropy is not None
        logps, entropy, values = shared_pass(
            policy, critic, batch, temperature=temperature, entropy=wanted
        )
        fill(episodes.values, rows, episodes.mask, values)
    elif episodes.entropy is None:
        logps = response_logps(policy, batch, temperature=temperature)
    else:
        logps, entropy = response_logps_and_entropy(policy, batch, temperature=temperature)
    if episodes.entropy is not None and entropy is not None:
        fill(episodes.entropy, rows, episodes.mask, entropy)
    return logps
