"""The load-balancing loss of a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def load_balancing_loss(router_logits: Sequence[Tensor], weights: Tensor, *, top_k: int) -> Tensor:
    """E · Σ f_e P_e over E experts, of each layer's router logits (T, E) and token weights (T,).

    f_e is the number of a token's `top_k` choices that are expert e, P_e its probability by the
    router, both means over layers and tokens by weight: Fedus et al. 2022 (Switch Transformers),
    equations 4 to 6, with top-k routing as in Mixtral. 1 · top_k where the load is even.
    """
    logits = torch.cat(list(router_logits))
    probs = logits.float().softmax(-1)
    chosen = torch.zeros_like(probs).scatter_(1, probs.topk(top_k, dim=-1).indices, 1.0)
    share = (weights / weights.sum()).to(probs).repeat(len(router_logits))[:, None]
    share = share / len(router_logits)
    return probs.shape[1] * ((share * chosen).sum(0) * (share * probs).sum(0)).sum()
