"""The inputs of the pair losses that `loss_type` selects, and the type of a row of their tables.

A module with pair losses ends with its table `PAIR_LOSSES`: each row maps a name to a function of
the terms and hyper-parameters. `learn.offline.dpo` merges the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairTerms:
    """The tensors of P pairs that a loss may use, each (P,).

    chosen, rejected: log-ratios log π(y|x) − log π_ref(y|x), summed over a response's tokens, or
    the rewards of an f-divergence in their place. chosen_length, rejected_length: in tokens.
    chosen_logp: log π(y_w|x), summed. policy_margin: log π(y_w|x) − log π(y_l|x), summed.
    chosen_length_in_step: the mean of chosen_length over all pairs of the optimiser step.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    chosen_logp: Tensor
    policy_margin: Tensor
    chosen_length_in_step: float


class PairHyperparameters(Protocol):
    """The hyper-parameters of pair losses; a loss uses some of them."""

    @property
    def beta(self) -> float: ...

    @property
    def label_smoothing(self) -> float: ...

    @property
    def discopop_tau(self) -> float: ...


PairLossFunction = Callable[[PairTerms, PairHyperparameters], Tensor]
"""One loss per pair, (P,)."""
