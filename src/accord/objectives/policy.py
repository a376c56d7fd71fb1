"""Policy-gradient losses. One value a token; the token-weighted mean is taken by the loop."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """PPO (Schulman et al. 2017, eq. 7), as a loss: −min(ρA, clip(ρ, 1−low, 1+high)·A).

    log_ratio = log π − log π_old and advantages, both (tokens,). Equal clips are PPO's;
    clip_high above clip_low is DAPO's (Yu et al. 2025, eq. 10).
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float
) -> Tensor:
    """½·max((V−R)², (clip(V, V_old±c)−R)²), all (tokens,). Schulman et al.'s baselines code."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def adapted_beta(beta: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """Ziegler et al. 2019, section 2.2: β·(1 + clip(KL/target − 1, ±0.2)·episodes/horizon)."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * episodes / horizon)
