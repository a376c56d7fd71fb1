"""Pair losses without a reference model, on mean log-probs per token. One value per pair, (pairs,).

Mean log-probs are log π(y|x) / |y|, so a shorter response is not more likely by its length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def log_odds(mean_logp: Tensor) -> Tensor:
    """log(p / (1 − p)) of log p = `mean_logp`, element by element (Hong et al. 2024, eq. 4).

    1 − p is computed by expm1, which is accurate where p approaches 1. Within one rounding step of
    p = 1 the odds, which have no limit, are 1/ε of the number type, with derivative 0.
    """
    logp = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


def odds_ratio_loss(chosen_mean_logp: Tensor, rejected_mean_logp: Tensor) -> Tensor:
    """ORPO's preference term (Hong et al. 2024, eq. 7): −log σ(log odds_w − log odds_l).

    The full ORPO loss (eq. 6) is the chosen response's mean negative log-likelihood plus λ times
    this.
    """
    return -logsigmoid(log_odds(chosen_mean_logp) - log_odds(rejected_mean_logp))


def simpo_loss(
    chosen_mean_logp: Tensor, rejected_mean_logp: Tensor, *, beta: float, gamma: float
) -> Tensor:
    """SimPO (Meng et al. 2024, eq. 6): −log σ(β·(chosen − rejected) − γ).

    γ is the margin of the reward itself; the authors' code and others set γ/β instead.
    """
    return -logsigmoid(beta * (chosen_mean_logp - rejected_mean_logp) - gamma)
