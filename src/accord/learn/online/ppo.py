"""PPO's advantages and returns (Schulman et al. 2017; Ouyang et al. 2022)."""

from __future__ import annotations

import torch

from accord.learn.online.episodes import Episodes
from accord.learn.online.metrics import Targets, final_scores, log_ratio_to_reference
from accord.objectives.advantages import gae, token_rewards, whiten
from accord.settings.ppo import PpoSettings


def ppo_targets(episodes: Episodes, settings: PpoSettings, beta: float) -> Targets:
    """The KL penalty on every token and the score on the last; advantages by GAE.

    Without a critic all values are 0.
    """
    mask = episodes.mask
    scores = final_scores(episodes, settings)
    rewards = token_rewards(scores, log_ratio_to_reference(episodes), mask, beta=beta)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, keep_mean=True)
    values = torch.zeros_like(rewards) if episodes.values is None else episodes.values
    advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.gae_lambda)
    if settings.whiten_advantages:
        advantages = whiten(advantages, mask)
    part = torch.ones(len(episodes.groups), dtype=torch.bool)
    if episodes.values is None:
        return Targets(advantages, part)
    unexplained = (returns - values)[mask].var(unbiased=False)
    spread = returns[mask].var(unbiased=False)
    numbers = {
        "val/explained_variance": float(1 - unexplained / spread) if spread > 0 else 0.0,
        "val/mean": float(values[mask].mean()),
    }
    return Targets(advantages, part, returns, numbers)
