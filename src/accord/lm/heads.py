"""Scalar heads: initialised from a seed, and reduced from several to one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accord.lm.model import LanguageModel


@torch.no_grad()
def init_score_heads(model: Any, seed: int) -> None:
    """Draw the weights of all scalar heads of a model, normal with standard deviation
    1/√(width + 1)."""
    generator = torch.Generator().manual_seed(seed)
    weight = model.score.weight
    weight.copy_(torch.randn(weight.shape, generator=generator) * (weight.shape[1] + 1) ** -0.5)


@torch.no_grad()
def new_value_head(width: int, device: torch.device, seed: int = 0) -> nn.Linear:
    """A critic's head: float32, weights normal with standard deviation 1/√(width + 1), bias 0."""
    head = nn.utils.skip_init(nn.Linear, width, 1)
    generator = torch.Generator().manual_seed(seed)
    head.weight.copy_(torch.randn(1, width, generator=generator) * (width + 1) ** -0.5)
    head.bias.zero_()
    return head.to(device)


@torch.no_grad()
def reduce_to_first_head(lm: LanguageModel) -> None:
    """Remove all heads of a model but the first, whose mean becomes the mean of the scores.

    A critic is trained on one value per token, so it has no use for an ensemble's other heads.
    """
    if lm.heads == 1:
        return
    old = lm.inner.score
    new = nn.Linear(old.in_features, 1, bias=old.bias is not None)
    new.to(device=old.weight.device, dtype=old.weight.dtype)
    new.weight.copy_(old.weight[:1])
    if old.bias is not None:
        new.bias.copy_(old.bias[:1])
    lm.inner.score = new
    lm.inner.config.num_labels = lm.inner.num_labels = 1
    lm.score_mean = lm.head_means[0] if lm.head_means else lm.score_mean
    lm.head_means, lm.score_penalty = (), 0.0
