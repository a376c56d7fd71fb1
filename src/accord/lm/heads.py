"""Scalar heads: drawn from a seed, and one taken out of several."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accord.lm.model import LanguageModel


@torch.no_grad()
def draw_heads(model: Any, seed: int) -> None:
    """Give each of a model's scalar heads weights of its own: normal, deviation 1/√(width + 1)."""
    generator = torch.Generator().manual_seed(seed)
    weight = model.score.weight
    weight.copy_(torch.randn(weight.shape, generator=generator) * (weight.shape[1] + 1) ** -0.5)


@torch.no_grad()
def value_head(width: int, device: torch.device, seed: int = 0) -> nn.Linear:
    """A critic's head: float32 weights normal with deviation 1/√(width + 1), a bias of 0."""
    head = nn.utils.skip_init(nn.Linear, width, 1)
    generator = torch.Generator().manual_seed(seed)
    head.weight.copy_(torch.randn(1, width, generator=generator) * (width + 1) ** -0.5)
    head.bias.zero_()
    return head.to(device)


@torch.no_grad()
def keep_first_head(lm: LanguageModel) -> None:
    """Make a model of several heads one of a single head, the first, with that head's mean.

    What learns by one number, as a critic does, has no use for the others.
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
