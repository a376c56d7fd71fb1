"""Alignment by optimal transport (Melnyk et al. 2024): distributions compared, not single pairs.

One distribution should dominate the other at every quantile: the policy's margins those of the
reference, or the chosen responses' log-ratios the rejected ones'. Between one-dimensional samples
the optimal plan matches equal ranks, so both sides are sorted over the pairs of the batch. This
couples all pairs of a forward pass: value i belongs to the i-th quantile and not to the i-th pair,
so pairs can't have separate weights, and the loss depends on how a batch is split.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.objectives.pair_terms import PairLossFunction


def aot_loss(policy_margin: Tensor, reference_margin: Tensor, *, beta: float) -> Tensor:
    """Paired AOT with the logistic loss: −log σ(β·(sorted policy − sorted reference margins)).

    A margin is log-prob(chosen) − log-prob(rejected), each summed over tokens; all (pairs,). For
    one pair it is DPO. The paper leaves the convex loss open; its experiments use this one.
    """
    return -logsigmoid(beta * (policy_margin.sort().values - reference_margin.sort().values))


def aot_unpaired_loss(chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float) -> Tensor:
    """Unpaired AOT with the logistic loss: −log σ(β·(sorted chosen − sorted rejected log-ratios)).

    Log-ratios are log π − log π_ref, summed over tokens; both (n,), of responses that need not be
    to the same prompts. For one pair it is DPO.
    """
    return -logsigmoid(beta * (chosen_logratio.sort().values - rejected_logratio.sort().values))


PAIR_LOSSES: dict[str, PairLossFunction] = {
    "aot": lambda t, h: aot_loss(
        t.policy_margin, t.policy_margin - (t.chosen - t.rejected), beta=h.beta
    ),
    "aot_unpaired": lambda t, h: aot_unpaired_loss(t.chosen, t.rejected, beta=h.beta),
}
