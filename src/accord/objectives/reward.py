"""Losses of a reward model, one value per comparison or ranking, and scores of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Bradley & Terry 1952: −log σ(r_chosen − r_rejected − margin), all (pairs,).

    The margin is Llama 2's (Touvron et al. 2023, eq. 2). Over all pairs of a ranking, with weights
    that sum to 1, it is InstructGPT's loss (Ouyang et al. 2022, eq. 1).
    """
    return -logsigmoid(chosen - rejected - margin)


def plackett_luce_loss(scores: Tensor, ranks: Sequence[int]) -> Tensor:
    """Plackett 1975, Luce 1959: −log P(ranking), the best drawn first by softmax, and so on.

    scores (K,); ranks[i] is the rank of response i, 0 best. Tied responses share the denominator
    (Breslow's approximation); the last rank is certain and adds nothing. For K = 2 it equals the
    Bradley-Terry loss.
    """
    rank = torch.as_tensor(ranks, device=scores.device)
    remaining = rank[None, :] >= rank[:, None]  # the responses left when i is drawn
    denominators = scores.expand(len(rank), -1).masked_fill(~remaining, -torch.inf).logsumexp(1)
    last = rank == rank.max()
    return (denominators - scores).masked_fill(last, 0.0).sum()


def centering_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Eisenstein et al. 2023: (r_chosen + r_rejected)², which centres scores around 0. (pairs,)."""
    return (chosen + rejected).square()


def worst_score(scores: Tensor) -> Tensor:
    """Worst-case optimisation of an ensemble (Coste et al. 2023): the lowest member's score.

    scores (n, members), normalised, to (n,).
    """
    return scores.min(-1).values


def mean_minus_variance(scores: Tensor, *, penalty: float) -> Tensor:
    """Uncertainty-weighted optimisation (Coste et al. 2023): the members' mean minus λ
    times their variance within the ensemble.

    scores (n, members), normalised, to (n,). The variance divides by the number of members.
    """
    return scores.mean(-1) - penalty * scores.var(-1, unbiased=False)
