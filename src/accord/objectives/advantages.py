"""Rewards, advantages and returns of responses as episodes, on padded (episodes, tokens) grids.

A bool mask (episodes, tokens) is True on response tokens; all other cells are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlong_penalty(lengths: Tensor, *, limit: int, buffer: int) -> Tensor:
    """DAPO's soft overlong punishment (Yu et al. 2025, eq. 13): 0 up to limit − buffer tokens, from
    there falling in a line to −1 at the limit.

    lengths in tokens, of any shape; buffer, the paper's L_cache, at least 1.
    """
    return ((limit - buffer - lengths) / buffer).clamp(-1.0, 0.0)


def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """−β·(log π − log π_ref) on every token, and the score on each response's last token.

    scores (E,), log_ratio and mask (E, T); returns (E, T). InstructGPT, eq. 2; Ziegler et al.
    2019, eq. 2, per token. Raises ValueError for a response without tokens.
    """
    rewards = -beta * log_ratio * mask
    last = mask.sum(1) - 1
    if bool((last < 0).any()):
        raise ValueError("a response without tokens has no last token to carry the score")
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), and the returns.

    δ_t = r_t + γ·V_{t+1} − V_t, with V after the last token 0; A_t = δ_t + γλ·A_{t+1};
    the return is A_t + V_t. All (E, T); responses start at column 0.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    carry = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(carry)
        delta = rewards[:, t] + gamma * following - values[:, t]
        carry = (delta + gamma * lam * carry) * mask[:, t]
        advantages[:, t] = carry
    return advantages, (advantages + values) * mask


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """The sum of a token's reward and those after it in its response; undiscounted, all (E, T)."""
    return rewards.flip(1).cumsum(1).flip(1) * mask


def whiten(values: Tensor, mask: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Shift to mean 0 (unless `keep_mean`) and scale to variance 1 over the masked cells.

    values and mask (E, T). The variance is the population's; a single cell and equal cells are
    only shifted.
    """
    cells = values[mask]
    if cells.numel() == 0:
        return values
    mean = cells.mean()
    scale = torch.rsqrt(cells.var(unbiased=False) + 1e-8)
    out = (values - mean) * scale
    return (out + mean if keep_mean else out) * mask


def group_advantages(scores: Tensor, *, scale: bool, eps: float = 1e-4) -> Tensor:
    """GRPO (Shao et al. 2024, eq. 21): (r − mean of the group) / (std of the group + eps).

    scores (P, K), K at least 2; returns (P, K). Without `scale` there is no division (Dr.
    GRPO, Liu et al. 2025), since it favours prompts with a small spread of scores. The standard
    deviation is the sample's, over K − 1, as in TRL. A group of equal scores gives exact zeros.

    A NaN is a response without a score: it counts in neither mean nor deviation, and has no
    advantage, as in TRL.
    """
    missing = scores.isnan()
    advantages = (scores - scores.nanmean(1, keepdim=True)).masked_fill(missing, 0.0)
    if scale:
        variance = advantages.square().sum(1, keepdim=True)
        variance = variance / ((~missing).sum(1, keepdim=True) - 1).clamp(min=1)
        deviation = variance.sqrt() if missing.any() else scores.std(1, keepdim=True)
        advantages = advantages / (deviation + eps)
    return advantages.masked_fill(has_equal_scores(scores)[:, None], 0.0)


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024, eq. 9): each reward minus the mean of the others in its group.

    rewards (P, K), K at least 2; returns (P, K). A group of equal rewards gives exact zeros. A NaN
    is a response without a score, which has no advantage and is in no mean.
    """
    scored = ~rewards.isnan()
    values = rewards.nan_to_num(0.0)
    others = (scored.sum(1, keepdim=True) - 1).clamp(min=1)
    baseline = (values.sum(1, keepdim=True) - values) / others
    return (values - baseline).masked_fill(~scored | has_equal_scores(rewards)[:, None], 0.0)


def has_equal_scores(scores: Tensor) -> Tensor:
    """(P,): whether the scores (P, K) of a group are all equal, so that none has an advantage.

    Exact, unlike a comparison with their mean. NaNs, of responses without a score, are left out: a
    group with one score or none is one.
    """
    missing = scores.isnan()
    highest = scores.masked_fill(missing, -torch.inf).amax(1)
    lowest = scores.masked_fill(missing, torch.inf).amin(1)
    return highest <= lowest
