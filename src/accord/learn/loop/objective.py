"""What a method's objective gives the optimiser loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from accord.lm.packing import PackedBatch, PromptGroup

Metric = tuple[float, float]  # a weighted sum and its weight


@dataclass(frozen=True, slots=True)
class Losses:
    """One value an example (or token) and its weight, both (n,), and metrics as sums."""

    values: Tensor
    weights: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)

    def total(self) -> Tensor:
        """The weighted sum, with gradient."""
        return (self.values * self.weights).sum()


class Reference(Protocol):
    """A batch and the row numbers of its groups to the reference's log-probs of all its response
    tokens, float32 (R,), without gradient."""

    def __call__(self, batch: PackedBatch, rows: Sequence[int]) -> Tensor: ...


ReferenceFactory = Callable[[Sequence[PromptGroup]], Reference]


class LossFunction(Protocol):
    """A batch and the row numbers of its groups to losses; metrics only where they are logged."""

    def __call__(self, batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses: ...


@dataclass(frozen=True, slots=True)
class Objective:
    """What is learned from a batch, and what has to be known of a whole step beforehand.

    `begin_step` is told the row numbers of all the step's forward passes, on all processes, before
    the first of them, so that the loss does not depend on how the step is split.
    """

    losses: LossFunction
    begin_step: Callable[[Sequence[int]], None] = lambda rows: None


def metric(values: Tensor, weights: Tensor | None = None) -> Metric:
    """A tensor's weighted sum and weight as a metric; weight 1 each by default."""
    values = values.detach().float()
    if weights is None:
        return float(values.sum()), float(values.numel())
    return float((values * weights).sum()), float(weights.sum())


def merge_metrics(parts: Sequence[dict[str, Metric]]) -> dict[str, float]:
    """Weighted means over micro-batches."""
    sums: dict[str, list[float]] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            entry = sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight
    return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}
