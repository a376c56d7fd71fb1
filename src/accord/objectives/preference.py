"""Losses on the difference of a pair's two rewards. One value per pair, (pairs,).

`chosen_logratio` and `rejected_logratio` are log π(y|x) − log π_ref(y|x), summed over the
response's tokens. Under another divergence than the reverse KL they are replaced by the rewards of
`f_divergences`; with log-probs in their place a loss is reference-free. β times the difference is
called h. The training loop takes the mean over pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.objectives.pair_terms import PairLossFunction


def dpo_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """Rafailov et al. 2023, eq. 7: −log σ(h)."""
    return -logsigmoid(beta * (chosen_logratio - rejected_logratio))


def cdpo_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """Conservative DPO (Mitchell 2023): −(1−ε)·log σ(h) − ε·log σ(−h).

    The expected DPO loss when a pair is flipped with probability ε; its minimum is at
    h = log((1−ε)/ε), so margins stop growing. ε = 0 is DPO.
    """
    h = beta * (chosen_logratio - rejected_logratio)
    return -(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)


def robust_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024): [−(1−ε)·log σ(h) + ε·log σ(−h)] / (1 − 2ε).

    Unbiased: its mean over labels flipped with probability ε is the DPO loss on the true labels.
    Unbounded below: the loss decreases without limit as h grows. Raises ValueError unless
    0 ≤ ε < ½.
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"a flip probability is at least 0 and below ½, not {label_smoothing}")
    h = beta * (chosen_logratio - rejected_logratio)
    correct, flipped = -logsigmoid(h), -logsigmoid(-h)
    return ((1 - label_smoothing) * correct - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 − h): SLiC-HF's hinge (Zhao et al. 2023) on log-ratios, as in RSO (Liu et al. 2023).

    SLiC-HF has no reference in its margin, and adds a cross-entropy term, which is omitted here.
    """
    return torch.relu(1 - beta * (chosen_logratio - rejected_logratio))


def ipo_summed_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """Azar et al. 2023, eq. 17, unchanged: (difference − 1/(2β))², where their τ is β.

    The target is for a whole response, so a long response reaches it by a small change per token.
    """
    return (chosen_logratio - rejected_logratio - 1 / (2 * beta)).square()


def ipo_loss(
    chosen_logratio: Tensor,
    rejected_logratio: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
) -> Tensor:
    """IPO on mean log-ratios per token: (chosen/|y_w| − rejected/|y_l| − 1/(2β))².

    Differs from Azar et al. 2023, eq. 17, which sums: the authors report that their own results
    are from the mean. Lengths are in tokens, (pairs,).
    """
    return ipo_summed_loss(
        chosen_logratio / chosen_length, rejected_logratio / rejected_length, beta=beta
    )


def dpo_normalised_loss(
    chosen_logratio: Tensor,
    rejected_logratio: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Length-normalised DPO (Lambert et al. 2024, Tülu 3): −log σ(β·(mean − mean)).

    Means of the log-ratio over each response's tokens; β is therefore larger than DPO's (5 there).
    """
    return dpo_loss(chosen_logratio / chosen_length, rejected_logratio / rejected_length, beta=beta)


def exo_pair_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """EXO on preferences (Ji et al. 2024, eq. 16): KL((σ(h), σ(−h)) ‖ (1−ε, ε)).

    The reverse of cDPO's KL (up to a constant). Its minimum is 0, at h = log((1−ε)/ε). Its gradient
    vanishes at both ends, so a pair with a large negative h is ignored. The paper advises ε = 10⁻³.
    Raises ValueError unless 0 < ε < 1, since the KL to a certain label is infinite.
    """
    if not 0.0 < label_smoothing < 1.0:
        raise ValueError(f"EXO needs a label smoothing between 0 and 1, not {label_smoothing}")
    h = beta * (chosen_logratio - rejected_logratio)
    chosen = h.sigmoid() * (logsigmoid(h) - math.log1p(-label_smoothing))
    return chosen + (-h).sigmoid() * (logsigmoid(-h) - math.log(label_smoothing))


def discopop_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, tau: float
) -> Tensor:
    """Log-ratio modulated loss (Lu et al. 2024, eq. 5): (1 − σ(h/τ))·(−log σ(h)) + σ(h/τ)·e^−h.

    Found by search, not derived. DPO where h is well below 0 and exponential where it is well
    above; between them, with the paper's τ of 0.05, it has a dip just below 0, so it is neither
    convex nor monotonic. From τ = 1 on the exponential term is no longer bounded as h falls.
    """
    h = beta * (chosen_logratio - rejected_logratio)
    # One exponential of a sum: e^−h alone overflows where σ(h/τ) is 0.
    exponential = torch.exp(logsigmoid(h / tau) - h)
    return (-h / tau).sigmoid() * -logsigmoid(h) + exponential


def wpo_weights(chosen_alignment: Tensor, rejected_alignment: Tensor) -> Tensor:
    """WPO (Zhou et al. 2024, eq. 2): the weights of pairs' losses, (pairs,), without gradient.

    A response's alignment is the mean over its tokens of log π(y_t) − log Σ_v π(v)²: its likelihood
    under the policy, relative to that of the policy's own samples. The weight is the exponential of
    the sum of both, so that pairs which resemble samples of the policy count most.
    """
    return torch.exp(chosen_alignment + rejected_alignment).detach()


PAIR_LOSSES: dict[str, PairLossFunction] = {
    "sigmoid": lambda t, h: (
        cdpo_loss(t.chosen, t.rejected, beta=h.beta, label_smoothing=h.label_smoothing)
        if h.label_smoothing
        else dpo_loss(t.chosen, t.rejected, beta=h.beta)
    ),
    "hinge": lambda t, h: hinge_loss(t.chosen, t.rejected, beta=h.beta),
    "ipo": lambda t, h: ipo_loss(
        t.chosen, t.rejected, t.chosen_length, t.rejected_length, beta=h.beta
    ),
    "ipo_summed": lambda t, h: ipo_summed_loss(t.chosen, t.rejected, beta=h.beta),
    "robust": lambda t, h: robust_loss(
        t.chosen, t.rejected, beta=h.beta, label_smoothing=h.label_smoothing
    ),
    "exo_pair": lambda t, h: exo_pair_loss(
        t.chosen, t.rejected, beta=h.beta, label_smoothing=h.label_smoothing
    ),
    "discopop": lambda t, h: discopop_loss(t.chosen, t.rejected, beta=h.beta, tau=h.discopop_tau),
    "sigmoid_norm": lambda t, h: dpo_normalised_loss(
        t.chosen, t.rejected, t.chosen_length, t.rejected_length, beta=h.beta
    ),
    # The mean over the step's tokens, as in supervised fine-tuning on the chosen responses.
    "sft": lambda t, h: -t.chosen_logp / t.chosen_length_in_step,
}
