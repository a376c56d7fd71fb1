"""Weights on tokens that keep a response's length out of its likelihood."""

from __future__ import annotations

import torch
from torch import Tensor


def length_desensitised_weights(lengths: Tensor, other_lengths: Tensor, *, alpha: float) -> Tensor:
    """LD-DPO (Liu et al. 2024): 1 on tokens within the pair's shorter length, α on those beyond.

    `lengths` (n,) are the tokens of responses that stand one after another, `other_lengths` (n,)
    those of the response each is compared with; returns (sum of lengths,). The log-probs of policy
    and reference are both weighted before they are summed. α = 1 is DPO, 0 compares what both have.
    Raises ValueError unless 0 ≤ α ≤ 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"the alpha of LD-DPO is at least 0 and at most 1, not {alpha}")
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    places = torch.arange(len(starts), device=lengths.device) - starts
    return torch.where(places < other_lengths.repeat_interleave(lengths), 1.0, alpha)
