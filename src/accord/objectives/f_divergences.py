"""Rewards of a policy under an f-divergence penalty to its reference: f'(u), u = π/π_ref.

Wang et al. 2023, "Beyond reverse KL": where f' has no value at 0, the best policy under
D_f(π‖π_ref) has the reward β·f'(u) plus a term of the prompt alone, which cancels in a pair. A loss
of `preference` on these rewards instead of log-ratios is f-DPO. Each function takes log u, summed
over a response's tokens, increases with u, and is shifted to be 0 at u = 1 (the paper's f' differ
by a constant).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LARGEST_EXPONENT = 30.0  # e³⁰ is 10¹³: squares of gradients of that size still fit float32


def reverse_kl_reward(logratio: Tensor) -> Tensor:
    """KL(π‖π_ref), f = u·log u: log u. This is DPO."""
    return logratio


def forward_kl_reward(logratio: Tensor) -> Tensor:
    """KL(π_ref‖π), f = −log u: 1 − 1/u."""
    return alpha_divergence_reward(logratio, alpha=1.0)


def jensen_shannon_reward(logratio: Tensor) -> Tensor:
    """Jensen-Shannon, f = u·log u − (u+1)·log((u+1)/2): log(2u/(1+u)), at most log 2."""
    return math.log(2) + logsigmoid(logratio)


def alpha_divergence_reward(logratio: Tensor, *, alpha: float) -> Tensor:
    """The α-divergence, from reverse KL (α = 0) to forward KL (α = 1): (1 − u^−α)/α.

    α as in Wang et al.; it is 1 minus that of tools that write (u^(α−1) − 1)/(α − 1). Differs from
    the formula where u^−α exceeds e³⁰: there the curve continues along its tangent, so values and
    derivatives are finite and the order of responses is unchanged. Raises ValueError unless
    0 ≤ α ≤ 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"the alpha of a divergence is at least 0 and at most 1, not {alpha}")
    if alpha == 0.0:
        return logratio
    exponent = -alpha * logratio
    beyond = torch.relu(
        exponent - LARGEST_EXPONENT
    )  # its derivative at the corner is 0; clamp's is 1
    power = torch.expm1(exponent.clamp(max=LARGEST_EXPONENT))
    return -(power + math.exp(LARGEST_EXPONENT) * beyond) / alpha
