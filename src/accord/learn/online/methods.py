"""The online methods: what each makes of an iteration's scores, and the loss of each step.

A method is one row of ONLINE: `targets` turns scores into advantages (and returns, for a critic),
`surrogate` turns advantages into the loss of each token, and `kl_loss`, where there is one, adds
the KL penalty to that loss; without it the penalty is part of the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from accord.learn.online.episodes import Episodes
from accord.lm.packing import PackedBatch
from accord.objectives.advantages import (
    gae,
    group_advantages,
    leave_one_out,
    overlong_penalty,
    returns_to_go,
    token_rewards,
    whiten,
)
from accord.objectives.policy import (
    clipped_policy_loss,
    clipped_weight_loss,
    kl_loss,
    sequence_log_ratio,
)
from accord.settings.groups import CispoSettings, GrpoSettings, GspoSettings, RlooSettings
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings, ReinforcePlusPlusSettings

S = TypeVar("S", bound=OnlineSettings)


@dataclass(frozen=True, slots=True)
class Targets:
    """What an iteration's steps use: advantages and, for a critic, returns (E, T).

    `active` (P,) marks the prompts that steps are taken on: one whose advantages are all 0, with
    no other loss on its tokens, would add nothing. `metrics` are a method's own, to be logged.
    """

    advantages: Tensor
    active: Tensor
    returns: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """What a surrogate reads of the R response tokens of a forward pass, all (R,).

    `logps` and `log_ratio` = log π − log π_old have gradients; `batch.response_of` (R,) and
    `batch.lengths` (N,) say which tokens make up a response.
    """

    logps: Tensor
    log_ratio: Tensor
    advantages: Tensor
    batch: PackedBatch


@dataclass(frozen=True, slots=True)
class SurrogateLoss:
    """The loss of each token (R,), with gradient, and the log of the ratio that was clipped (R,),
    for the clip fractions."""

    values: Tensor
    log_ratio: Tensor


@dataclass(frozen=True, slots=True)
class OnlineMethod(Generic[S]):
    """`targets(episodes, settings, beta)`, `surrogate(terms, settings)` and, where the KL is a
    term of the loss, `kl_loss(log π/π_ref, log π/π_old, settings)`, each (R,).

    `logs_group_metrics`: TRL's names for groups are logged too.
    """

    targets: Callable[[Episodes, S, float], Targets]
    surrogate: Callable[[PolicyTerms, S], SurrogateLoss]
    kl_loss: Callable[[Tensor, Tensor, S], Tensor] | None = None
    logs_group_metrics: bool = False


def final_scores(episodes: Episodes, settings: OnlineSettings) -> Tensor:
    """Scores (E,), less the penalties of long responses and of those without EOS; NaN for a
    response to which no source of the reward applies."""
    return penalised_scores(episodes.scores, episodes.lengths, episodes.finished, settings)


def penalised_scores(
    scores: Tensor, lengths: Tensor, finished: Tensor, settings: OnlineSettings
) -> Tensor:
    """Scores (E,), less the penalties of long responses and of those without EOS; where
    `missing_eos_score` is set, it is the whole score of the latter."""
    if settings.overlong_buffer:
        limit, buffer = settings.max_new_tokens, settings.overlong_buffer
        scores = scores + overlong_penalty(lengths, limit=limit, buffer=buffer)
    if settings.missing_eos_score is not None:
        return scores.masked_fill(~finished & ~scores.isnan(), settings.missing_eos_score)
    return scores - settings.missing_eos_penalty * (~finished).float()


def log_ratio_to_reference(episodes: Episodes) -> Tensor:
    """log π_old − log π_ref on response tokens, 0 elsewhere (E, T); all 0 without a reference."""
    if episodes.ref_logps is None:
        return torch.zeros_like(episodes.old_logps)
    return (episodes.old_logps - episodes.ref_logps) * episodes.mask


def _scores_and_mask(episodes: Episodes, settings: OnlineSettings) -> tuple[Tensor, Tensor]:
    """The scores (E,) and the mask (E, T) of the responses that have one; the others have score 0
    and no token in the mask."""
    scores = final_scores(episodes, settings)
    return scores.nan_to_num(0.0), episodes.mask & ~scores.isnan()[:, None]


def ppo_targets(episodes: Episodes, settings: PpoSettings, beta: float) -> Targets:
    """PPO (Schulman et al. 2017; Ouyang et al. 2022): the KL penalty on every token, the score on
    the last one, and advantages by GAE. Without a critic all values are 0.

    A response without a score has no advantage, and its returns are the values themselves.
    """
    scores, mask = _scores_and_mask(episodes, settings)
    rewards = token_rewards(scores, log_ratio_to_reference(episodes), episodes.mask, beta=beta)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, keep_mean=True)
    values = torch.zeros_like(rewards) if episodes.values is None else episodes.values
    advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.gae_lambda)
    returns = torch.where(mask, returns, values)
    if settings.whiten_advantages:
        advantages = whiten(advantages, mask)
    active = torch.ones(len(episodes.groups), dtype=torch.bool)
    if episodes.values is None or not mask.any():
        return Targets(advantages, active, None if episodes.values is None else returns)
    residual = (returns - values)[mask].var(unbiased=False)
    variance = returns[mask].var(unbiased=False)
    metrics = {
        "val/explained_variance": float(1 - residual / variance) if variance > 0 else 0.0,
        "val/mean": float(values[mask].mean()),
    }
    return Targets(advantages, active, returns, metrics)


def grpo_targets(episodes: Episodes, settings: GrpoSettings, beta: float) -> Targets:
    """GRPO (Shao et al. 2024): each token's advantage is its response's score, centred and scaled
    within its group.

    A group of equal scores is active only for the KL loss, and without one not at all.
    """
    scores = final_scores(episodes, settings).view(len(episodes.groups), -1)
    advantages = group_advantages(scores, scale=settings.scale_rewards)
    return _response_targets(advantages, episodes, all_active=beta > 0)


def rloo_targets(episodes: Episodes, settings: RlooSettings, beta: float) -> Targets:
    """RLOO (Ahmadian et al. 2024): the score minus β times the response's log-ratio, compared with
    the mean of the group's other responses."""
    rewards = final_scores(episodes, settings) - beta * log_ratio_to_reference(episodes).sum(1)
    advantages = leave_one_out(rewards.view(len(episodes.groups), -1))
    return _response_targets(advantages, episodes, all_active=False)


def reinforce_plus_plus_targets(
    episodes: Episodes, settings: ReinforcePlusPlusSettings, beta: float
) -> Targets:
    """REINFORCE++ (Hu et al. 2025): the score less β times the log-ratios from a token on,
    normalised over all response tokens of the iteration."""
    scores, mask = _scores_and_mask(episodes, settings)
    rewards = token_rewards(scores, log_ratio_to_reference(episodes), episodes.mask, beta=beta)
    advantages = whiten(returns_to_go(rewards, mask), mask)
    return Targets(advantages, torch.ones(len(episodes.groups), dtype=torch.bool))


def _response_targets(advantages: Tensor, episodes: Episodes, *, all_active: bool) -> Targets:
    """Advantages (P, K) spread over every token of their responses."""
    informative = (advantages != 0).any(1)
    active = torch.ones_like(informative) if all_active else informative
    return Targets(advantages.reshape(-1, 1) * episodes.mask, active)


def clipped_surrogate(terms: PolicyTerms, settings: OnlineSettings) -> SurrogateLoss:
    """PPO's clipped surrogate on each token's ratio; GRPO and RLOO use it too."""
    low, high = clip_range(settings)
    values = clipped_policy_loss(terms.log_ratio, terms.advantages, clip_low=low, clip_high=high)
    return SurrogateLoss(values, terms.log_ratio)


def gspo_surrogate(terms: PolicyTerms, settings: GspoSettings) -> SurrogateLoss:
    """GSPO (Zheng et al. 2025, eq. 5): PPO's clipped surrogate on the ratio of whole responses."""
    low, high = clip_range(settings)
    log_ratio = sequence_log_ratio(terms.log_ratio, terms.batch.response_of, terms.batch.lengths)
    values = clipped_policy_loss(log_ratio, terms.advantages, clip_low=low, clip_high=high)
    return SurrogateLoss(values, log_ratio)


def cispo_surrogate(terms: PolicyTerms, settings: CispoSettings) -> SurrogateLoss:
    """CISPO (MiniMax-M1 2025): the log-prob of every token, weighted by its clipped ratio."""
    low, high = clip_range(settings)
    values = clipped_weight_loss(
        terms.logps, terms.log_ratio, terms.advantages, clip_low=low, clip_high=high
    )
    return SurrogateLoss(values, terms.log_ratio)


def clip_range(settings: OnlineSettings) -> tuple[float, float]:
    """How far the ratio may go below and above 1."""
    low, high = settings.cliprange, settings.cliprange_high
    return low, low if high is None else high


def grpo_kl_loss(ref_log_ratio: Tensor, log_ratio: Tensor, settings: GrpoSettings) -> Tensor:
    """k3 on each token, weighted by the ratio with `use_bias_correction_kl`."""
    return kl_loss(ref_log_ratio, log_ratio, corrected=settings.use_bias_correction_kl)


ONLINE: dict[str, OnlineMethod[Any]] = {
    "ppo": OnlineMethod(ppo_targets, clipped_surrogate),
    "reinforce_plus_plus": OnlineMethod(reinforce_plus_plus_targets, clipped_surrogate),
    "grpo": OnlineMethod(grpo_targets, clipped_surrogate, grpo_kl_loss, logs_group_metrics=True),
    "rloo": OnlineMethod(rloo_targets, clipped_surrogate, logs_group_metrics=True),
    "gspo": OnlineMethod(grpo_targets, gspo_surrogate, grpo_kl_loss, logs_group_metrics=True),
    "cispo": OnlineMethod(grpo_targets, cispo_surrogate, grpo_kl_loss, logs_group_metrics=True),
}
