"""Losses on single responses that are desirable or not. One value per response, (responses,)."""

from __future__ import annotations

import torch
from torch import Tensor


def kto_loss(
    logratio: Tensor,
    desirable: Tensor,
    reference_point: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO (Ethayarajh et al. 2024): λ_y − v, v = λ_D·σ(β(r − z₀)) or λ_U·σ(β(z₀ − r)).

    Prospect theory's value of an outcome against a reference point: gains for desirable responses,
    losses for others, both flat far from z₀. `logratio` is r = log π(y|x) − log π_ref(y|x), summed
    over tokens, `desirable` bools, both (responses,); z₀ comes from `kto_reference_point`. With
    z₀ = 0 it is APO-zero on single responses.
    """
    gain = torch.where(desirable, 1.0, -1.0) * (logratio - reference_point)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (-beta * gain).sigmoid()  # λ − λ·σ(x) = λ·σ(−x)


def kto_reference_point(mismatched_logratio: Tensor) -> Tensor:
    """KTO's z₀, in nats: KL(π‖π_ref), estimated by max(0, mean log-ratio). No gradient; a scalar.

    The log-ratios (n,) are those of responses paired with the prompts of other rows. Biased: such a
    response is not a sample from π. The paper accepts this, since it needs no sampling and only the
    order of magnitude at which the loss saturates.
    """
    return mismatched_logratio.detach().mean().clamp(min=0)
