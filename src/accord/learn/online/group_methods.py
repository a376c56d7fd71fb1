"""GRPO (Shao et al. 2024) and RLOO (Ahmadian et al. 2024): a group is its own baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.learn.online.episodes import Episodes
from accord.learn.online.metrics import Targets, final_scores, log_ratio_to_reference
from accord.objectives.advantages import group_advantages, leave_one_out
from accord.settings.groups import GrpoSettings, RlooSettings


def grpo_targets(episodes: Episodes, settings: GrpoSettings, beta: float) -> Targets:
    """Each token's advantage is its response's score, centred and scaled within its group.

    A group of equal scores takes part for the KL loss only, and without one not at all.
    """
    scores = final_scores(episodes, settings).view(len(episodes.groups), -1)
    advantages = group_advantages(scores, scale=settings.scale_rewards)
    return _of_responses(advantages, episodes, everyone=beta > 0)


def rloo_targets(episodes: Episodes, settings: RlooSettings, beta: float) -> Targets:
    """The score less β times the response's log-ratio, against the mean of the group's others."""
    rewards = final_scores(episodes, settings) - beta * log_ratio_to_reference(episodes).sum(1)
    advantages = leave_one_out(rewards.view(len(episodes.groups), -1))
    return _of_responses(advantages, episodes, everyone=False)


def _of_responses(advantages: Tensor, episodes: Episodes, *, everyone: bool) -> Targets:
    """Advantages (P, K) laid on every token of their responses."""
    tells = (advantages != 0).any(1)
    part = torch.ones_like(tells) if everyone else tells
    return Targets(advantages.reshape(-1, 1) * episodes.mask, part)
