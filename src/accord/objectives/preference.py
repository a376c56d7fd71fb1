"""Losses on preferences. One value a pair; the mean is taken once, by the training loop.

A margin is log-prob(chosen) − log-prob(rejected), each summed over the response's tokens.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    policy_margin: Tensor, reference_margin: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """Rafailov et al. 2023, eq. 7; with label smoothing ε, Mitchell 2023's conservative DPO.

    −(1−ε)·log σ(h) − ε·log σ(−h) with h = β·(policy_margin − reference_margin), all (pairs,).
    """
    h = beta * (policy_margin - reference_margin)
    return -(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)
