"""Losses on pairs that compare each response with a fixed point, not only with the other response.

A pair's difference can grow while both responses become less likely; these losses have a target
for each response. `chosen_logratio` and `rejected_logratio` are log π(y|x) − log π_ref(y|x), summed
over the response's tokens, and β times them are the rewards c and r. One value per pair, (pairs,).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.objectives.pair_terms import PairLossFunction


def nca_pair_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """NCA on pairs (Chen et al. 2024): −log σ(c) − ½·log σ(−c) − ½·log σ(−r).

    Their noise-contrastive loss over K responses, for K = 2 and all weight on the chosen one. The
    terms of the chosen response have their minimum at c = log 2, so its likelihood does not grow
    without limit.
    """
    chosen, rejected = beta * chosen_logratio, beta * rejected_logratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def sppo_hard_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """SPPO (Wu et al. 2024, eq. 4.7): (log-ratio − η·(P − ½))² of both responses, η = 1/β.

    Differs from the paper, which estimates the win probability P: here it is 1 for the chosen and
    0 for the rejected response, so that the targets are ±1/(2β).
    """
    target = 1 / (2 * beta)
    return (chosen_logratio - target).square() + (rejected_logratio + target).square()


def apo_zero_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, eq. 7): −σ(c) + σ(r), plus 1 to be positive.

    Makes the chosen response more likely and the rejected one less: for chosen responses that are
    better than the model's own.
    """
    return (-beta * chosen_logratio).sigmoid() + (beta * rejected_logratio).sigmoid()


def apo_down_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """APO-down (D'Oosterlinck et al. 2024, eq. 8): σ(c) − σ(c − r), plus 1.

    Makes both responses less likely, the rejected one more so: for chosen responses that are worse
    than the model's own.
    """
    difference = beta * (chosen_logratio - rejected_logratio)
    return (beta * chosen_logratio).sigmoid() + (-difference).sigmoid()


def bco_pair_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, delta: float | Tensor
) -> Tensor:
    """BCO (Jung et al. 2024): −log σ(c − δ) − log σ(−(r − δ)).

    A classifier of chosen against rejected responses, an upper bound of DPO's loss that is tightest
    where δ = ½·(mean c + mean r). The paper uses the running mean of that over training. The caller
    computes δ, without gradient.
    """
    return -logsigmoid(beta * chosen_logratio - delta) - logsigmoid(
        -(beta * rejected_logratio - delta)
    )


PAIR_LOSSES: dict[str, PairLossFunction] = {
    "nca_pair": lambda t, h: nca_pair_loss(t.chosen, t.rejected, beta=h.beta),
    "sppo_hard": lambda t, h: sppo_hard_loss(t.chosen, t.rejected, beta=h.beta),
    "apo_zero": lambda t, h: apo_zero_loss(t.chosen, t.rejected, beta=h.beta),
    "apo_down": lambda t, h: apo_down_loss(t.chosen, t.rejected, beta=h.beta),
    "bco_pair": lambda t, h: bco_pair_loss(
        t.chosen,
        t.rejected,
        beta=h.beta,
        # Differs from the paper's running mean: the mean of this forward pass, so that no state is
        # carried from step to step.
        delta=h.beta * 0.5 * (t.chosen + t.rejected).detach().mean(),
    ),
}
