"""Policy-gradient losses, one value per token, and the weight of each token in a step's mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from accord.objectives.divergences import kl_k3

Aggregation = Literal["token", "sequence", "fixed"]


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


def clipped_weight_loss(
    logps: Tensor, log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """CISPO (MiniMax-M1 2025, eqs. 4 and 5), as a loss: −sg(clip(ρ, 1−low, 1+high))·A·log π.

    All (tokens,). The clip bounds the weight of a token's gradient and never takes it away; no
    gradient flows through the weight (sg). clip_low of 1 or more is no bound below, as there.
    """
    weights = log_ratio.detach().exp().clamp(1.0 - clip_low, 1.0 + clip_high)
    return -weights * advantages * logps


def sequence_log_ratio(log_ratio: Tensor, response_of: Tensor, lengths: Tensor) -> Tensor:
    """GSPO (Zheng et al. 2025, eq. 7): the log of s = (π(y)/π_old(y))^(1/|y|), on every token of y.

    log_ratio and response_of (tokens,), the response of each token; lengths (responses,). Returns
    (tokens,): the mean of the log-ratios of the token's response. Whole responses only.
    """
    sums = log_ratio.new_zeros(len(lengths)).index_add(0, response_of, log_ratio)
    return (sums / lengths)[response_of]


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float
) -> Tensor:
    """½·max((V−R)², (clip(V, V_old±c)−R)²), all (tokens,). As in Schulman et al.'s code, OpenAI
    baselines."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def kl_loss(log_ratio_to_reference: Tensor, log_ratio: Tensor, *, corrected: bool) -> Tensor:
    """The KL to the reference as a loss term, k3 of each token, all (tokens,).

    Plain, as in Shao et al. 2024 (eq. 4), its gradient is (1 − π_ref/π)·∇log π: in expectation
    that of the forward KL, KL(π_ref‖π). Corrected, each value is weighted by the ratio
    π/π_old (DeepSeek-V3.2, 2025); at ratio 1 the gradient is then log(π/π_ref)·∇log π, that of
    the reverse KL in the objective.
    """
    k3 = kl_k3(log_ratio_to_reference)
    return log_ratio.exp() * k3 if corrected else k3


def importance_weights(old_logps: Tensor, sampler_logps: Tensor, *, cap: float) -> Tensor:
    """min(π_old/π_sampler, cap) of each token: truncated importance sampling (Yao et al. 2025).

    For tokens sampled by another engine, whose probabilities differ slightly from the trainer's.
    """
    return (old_logps - sampler_logps).exp().clamp(max=cap)


def token_weights(lengths: Tensor, *, kind: Aggregation, longest: int) -> Tensor:
    """The weight of each token of a response in the loss of an optimiser step, (E,); lengths (E,).

    `token`: equal for all tokens of the step, 1/Σ length (DAPO, Yu et al. 2025, eq. 8).
    `sequence`: equal in sum for all responses, 1/(E·length) (Shao et al. 2024, eq. 3).
    `fixed`: 1/(E·longest), independent of the responses' lengths (Dr. GRPO, Liu et al. 2025).
    """
    count = len(lengths)
    if kind == "token":
        return (1.0 / lengths.sum()).expand(count)
    if kind == "sequence":
        return 1.0 / (count * lengths)
    return torch.full((count,), 1.0 / (count * longest), device=lengths.device)


def adapted_beta(beta: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """Ziegler et al. 2019, section 2.2: β·(1 + clip(KL/target − 1, ±0.2)·episodes/horizon)."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * episodes / horizon)
