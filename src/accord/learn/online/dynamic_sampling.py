"""Dynamic sampling (DAPO, Yu et al. 2025, eq. 11): prompts whose responses all score the same, and
so have no advantage, are replaced by the next prompts of the order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch

from accord.compare.rewards.reward import RewardScores
from accord.learn.online.methods import penalised_scores
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import (
    PromptOrder,
    Rollouts,
    ScoredRollouts,
    concatenate_rollouts,
    concatenate_scores,
    sample_and_score,
)
from accord.objectives.advantages import has_equal_scores
from accord.settings.groups import GroupSettings
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)


def replace_equal_groups(
    scored: ScoredRollouts, roles: Roles, order: PromptOrder, settings: OnlineSettings
) -> ScoredRollouts:
    """Replace each prompt whose scores, after penalties, are all equal by the next one of the
    order; of those that are equal again, at most `dynamic_sampling_max_rounds` times.

    What is replaced depends on scores alone, which all processes share, and the new prompts are
    those behind the last position that was drawn: a resumed run replaces the same. Responses
    without a score are left out of the comparison.
    """
    if not isinstance(settings, GroupSettings) or not settings.dynamic_sampling_max_rounds:
        return scored
    prompts, discarded_tokens, num_replaced = list(split_prompts(scored)), 0, 0
    next_position = scored.positions[-1] + 1
    equal = _equal_groups(prompts, settings)
    for _ in range(settings.dynamic_sampling_max_rounds):
        if not equal:
            break
        positions = range(next_position, next_position + len(equal))
        batch = order.batch(positions)
        drawn = sample_and_score(roles, batch, settings, sync_weights=False)
        for slot, prompt in zip(equal, split_prompts(drawn), strict=True):
            discarded_tokens += prompts[slot].rollouts.groups[0].num_tokens
            prompts[slot] = prompt
        next_position, num_replaced = positions.stop, num_replaced + len(equal)
        equal = _equal_groups(prompts, settings)
    if equal:
        _warn_once(settings.output_dir, settings.dynamic_sampling_max_rounds)
    return replace(
        _join_prompts(prompts),
        metrics={
            "dynamic_sampling/replaced_prompts": float(num_replaced),
            "dynamic_sampling/extra_responses": float(num_replaced * settings.num_generations),
            "dynamic_sampling/equal_groups": float(len(equal)),
        },
        discarded_tokens=discarded_tokens,
    )


def split_prompts(scored: ScoredRollouts) -> Iterator[ScoredRollouts]:
    """The rollouts of each prompt, with their scores and log-probs."""
    rollouts, scores = scored.rollouts, scored.scores
    response = token = 0
    for position, group in zip(scored.positions, rollouts.groups, strict=True):
        responses = slice(response, response + len(group.responses))
        tokens = slice(token, token + sum(map(len, group.responses)))
        response, token = responses.stop, tokens.stop
        yield ScoredRollouts(
            (position,),
            Rollouts(
                (group,),
                rollouts.texts[responses],
                rollouts.finished[responses],
                rollouts.logps[tokens],
                rollouts.exact,
            ),
            RewardScores(
                scores.total[responses],
                {name: values[responses] for name, values in scores.by_source.items()},
            ),
        )


def _join_prompts(prompts: Sequence[ScoredRollouts]) -> ScoredRollouts:
    return ScoredRollouts(
        tuple(position for prompt in prompts for position in prompt.positions),
        concatenate_rollouts([prompt.rollouts for prompt in prompts]),
        concatenate_scores([prompt.scores for prompt in prompts]),
    )


def _equal_groups(prompts: Sequence[ScoredRollouts], settings: OnlineSettings) -> list[int]:
    """Which prompts' responses all score the same."""
    equal = []
    for number, prompt in enumerate(prompts):
        scores = penalised_scores(
            torch.tensor(prompt.scores.total),
            torch.tensor([len(r) for r in prompt.rollouts.groups[0].responses]),
            torch.tensor(prompt.rollouts.finished),
            settings,
        )
        if bool(has_equal_scores(scores[None])):
            equal.append(number)
    return equal


@cache
def _warn_once(output_dir: str, max_rounds: int) -> None:
    """Once for each run, however many of its iterations reach the limit."""
    log.warning(
        "%s: after dynamic_sampling_max_rounds=%d the responses to some prompts still all score "
        "the same and teach nothing; dynamic_sampling/equal_groups counts these prompts. Take "
        "prompts that are neither always nor never solved, a finer reward, or more "
        "num_generations.",
        output_dir,
        max_rounds,
    )
