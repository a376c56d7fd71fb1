"""Token weights that reduce the influence of a response's length on its likelihood."""

from __future__ import annotations

import torch
from torch import Tensor


def length_desensitised_weights(lengths: Tensor, other_lengths: Tensor, *, alpha: float) -> Tensor:
    """LD-DPO (Liu et al. 2024): 1 on tokens within the pair's shorter length, α on those beyond.

    `lengths` (n,) are the lengths in tokens of concatenated responses, `other_lengths` (n,) those
    of the response that each is compared with; returns (sum of lengths,). The log-probs of policy
    and reference are both weighted before they are summed. α = 1 is DPO; α = 0 ignores the tokens
    beyond the shorter length. Raises ValueError unless 0 ≤ α ≤ 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"the alpha of LD-DPO is at least 0 and at most 1, not {alpha}")
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    position = torch.arange(len(starts), device=lengths.device) - starts
    return torch.where(position < other_lengths.repeat_interleave(lengths), 1.0, alpha)
