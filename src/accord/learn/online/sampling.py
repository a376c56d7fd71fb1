"""The prompts of an iteration, the policy's responses to them, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from accord.compare.rewards.reward import RewardScores, score_responses
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import RowOrder
from accord.learn.online.roles import Roles
from accord.lm.packing import PromptGroup
from accord.lm.sharding.shards import gathered
from accord.lm.tokens.opened import opened_by_prompt
from accord.records import PromptOnly
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from accord.settings.online import OnlineSettings

Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """P prompts with their records, at successive `positions` of the run's order, which number
    the random streams of their responses."""

    prompts: Prompts
    records: Sequence[PromptOnly]
    positions: range


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """A run's prompts with their records, in shuffled order: epoch after epoch, without end."""

    prompts: Prompts
    records: Sequence[PromptOnly]
    rows: RowOrder

    def batch(self, positions: range) -> PromptBatch:
        """The prompts at successive positions."""
        rows = [self.rows.at(position) for position in positions]
        return PromptBatch(
            [self.prompts[i] for i in rows], [self.records[i] for i in rows], positions
        )

    def at(self, position: int) -> tuple[tuple[int, ...], PromptOnly]:
        """The prompt at a position, with its record."""
        row = self.rows.at(position)
        return self.prompts[row], self.records[row]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """P prompts with K sampled responses: token groups, and in order of the E = P·K responses
    their texts without control tokens, whether each ended with EOS, the sampler's log-probs of
    their tokens, and whether the policy itself computed those."""

    groups: tuple[PromptGroup, ...]
    texts: tuple[str, ...]
    finished: tuple[bool, ...]
    logps: tuple[float, ...]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class ScoredRollouts:
    """Rollouts with their scores, and the position in the run's order of each prompt.

    `metrics` are what sampling logs of itself, and `discarded_tokens` those of prompts and
    responses that it did not use.
    """

    positions: tuple[int, ...]
    rollouts: Rollouts
    scores: RewardScores
    metrics: Mapping[str, float] = field(default_factory=dict)
    discarded_tokens: int = 0


def sample_rollouts(
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    streams: range,
    *,
    sync_weights: bool = True,
) -> Rollouts:
    """K responses of the policy's present weights to each prompt.

    Each process samples its shard of the prompts; where a server samples, the main process asks
    it for all, and gives it the weights unless it has them (`sync_weights`). `streams` number the
    random streams of the prompts.
    """
    procs = processes()
    shard = procs.shard(len(prompts))
    if roles.server:
        shard = range(len(prompts)) if procs.is_main else range(0)
    sampling = SamplingSettings(
        num_responses=settings.num_generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        stop=tuple(settings.stop),
    )

    def sample() -> Rollouts:
        if sync_weights and (procs.is_main or roles.is_sharded):
            roles.sync_weights()
        part = slice(shard.start, shard.stop)
        responses = roles.sampler(
            prompts[part], sampling, seed=settings.seed, streams=streams[part]
        )
        samples = [sample for group in responses for sample in group]
        return Rollouts(
            tuple(
                PromptGroup(prompt, tuple(s.tokens for s in group), source=record.source)
                for prompt, group, record in zip(
                    prompts[part], responses, records[part], strict=True
                )
            ),
            tuple(
                response_text(s, roles.policy.tokenizer, prompt)
                for prompt, group in zip(prompts[part], responses, strict=True)
                for s in group
            ),
            tuple(s.finished for s in samples),
            tuple(logp for s in samples for logp in s.logps),
            all(s.exact for s in samples),
        )

    with gathered(None if roles.server else roles.policy):  # each samples at its own pace
        return concatenate_rollouts(procs.run_on_all(sample))


def concatenate_rollouts(shards: Sequence[Rollouts]) -> Rollouts:
    """The rollouts of several processes or prompts, in order."""
    return Rollouts(
        tuple(group for shard in shards for group in shard.groups),
        tuple(text for shard in shards for text in shard.texts),
        tuple(finished for shard in shards for finished in shard.finished),
        tuple(logp for shard in shards for logp in shard.logps),
        all(shard.exact for shard in shards),
    )


@torch.no_grad()
def score_rollouts(roles: Roles, rollouts: Rollouts, records: Sequence[PromptOnly]) -> RewardScores:
    """The reward of all responses; each process scores those to its shard of the prompts."""
    procs, k = processes(), len(rollouts.groups[0].responses)
    shard = procs.shard(len(records))
    rows = slice(shard.start * k, shard.stop * k)
    repeated = [records[p] for p in shard for _ in range(k)]
    tokens = [response for p in shard for response in rollouts.groups[p].responses]
    opened = [opened_by_prompt(records[p].prompt, roles.policy.tokenizer) for p in shard]

    def score() -> RewardScores | None:
        if not repeated:
            return None
        return score_responses(
            roles.reward,
            [r.prompt for r in repeated],
            rollouts.texts[rows],
            rollouts.finished[rows],
            [r.meta for r in repeated],
            tokens,
            [text for text in opened for _ in range(k)],
        )

    with gathered(*roles.reward_models):
        return concatenate_scores([scores for scores in procs.run_on_all(score) if scores])


def concatenate_scores(shards: Sequence[RewardScores]) -> RewardScores:
    """The scores of several processes or prompts, in order."""
    return RewardScores(
        [score for scores in shards for score in scores.total],
        {
            name: [score for scores in shards for score in scores.by_source[name]]
            for name in shards[0].by_source
        },
    )


def sample_and_score(
    roles: Roles, batch: PromptBatch, settings: OnlineSettings, *, sync_weights: bool = True
) -> ScoredRollouts:
    """Sample K responses to each prompt of a batch, and score them."""
    rollouts = sample_rollouts(
        roles,
        batch.prompts,
        batch.records,
        settings,
        batch.positions,
        sync_weights=sync_weights,
    )
    return ScoredRollouts(
        tuple(batch.positions), rollouts, score_rollouts(roles, rollouts, batch.records)
    )
