"""AdamW, its learning rate, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from accord.settings.training import TrainSettings

Shape = Literal["constant", "linear", "cosine"]


def adamw(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, learning_rate: float | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with the settings' numbers; only matrices decay."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=learning_rate or settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def learning_rate_factor(step: int, total: int, *, shape: Shape, warmup_ratio: float) -> float:
    """The learning rate of step (from 0) of `total`, as a factor of the peak.

    It rises linearly over the warm-up, then stays, falls linearly, or along half a cosine; the
    step after the last would have 0.
    """
    warmup = round(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    share = (step - warmup) / max(1, total - warmup)
    return 1.0 - share if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm of max_norm (0: never); returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(
        parameters, max_norm if max_norm > 0 else math.inf, error_if_nonfinite=False
    )
    return float(norm)
