"""What a training method gives the optimiser loop: losses of a batch, and metrics as sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from accord.lm.packing import PackedBatch, PromptGroup

Metric = tuple[float, float]  # a weighted sum and its weight


@dataclass(frozen=True, slots=True)
class Losses:
    """One value an example (or token) and its weight, both (n,), and metrics as sums."""

    values: Tensor
    weights: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)

    def weighted_sum(self) -> Tensor:
        """Σ weight · value, with gradient."""
        return (self.values * self.weights).sum()


class Reference(Protocol):
    """A batch and the row numbers of its groups to the reference's log-probs of all its response
    tokens, float32 (R,), without gradient."""

    def __call__(self, batch: PackedBatch, rows: Sequence[int]) -> Tensor: ...


ReferenceFactory = Callable[[Sequence[PromptGroup]], Reference]


class LossFunction(Protocol):
    """A batch, the row numbers of its groups and the step's context to losses.

    Metrics are computed only with `log`, on steps that are logged.
    """

    def __call__(
        self, batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool
    ) -> Losses: ...


@dataclass(frozen=True, slots=True)
class Objective:
    """A method's losses, and what they need to know of a whole step.

    `prepare(rows)` is called once before a step's first forward pass, on every process, with the
    row numbers of all the step's passes on all processes. Its result is passed to every call of
    `losses` in that step, so the loss does not depend on how the step is split.
    """

    losses: LossFunction
    prepare: Callable[[Sequence[int]], Any] = lambda rows: None


def metric(values: Tensor, weights: Tensor | None = None) -> Metric:
    """A tensor's weighted sum and weight as a metric; weight 1 each by default."""
    values = values.detach().float()
    if weights is None:
        return float(values.sum()), float(values.numel())
    return float((values * weights).sum()), float(weights.sum())


def sum_metrics(parts: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    """Metrics of several passes added up, by name."""
    sums: dict[str, Metric] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            so_far = sums.get(name, (0.0, 0.0))
            sums[name] = (so_far[0] + total, so_far[1] + weight)
    return sums


def mean_metrics(parts: Sequence[dict[str, Metric]]) -> dict[str, float]:
    """The weighted mean of each metric over several passes."""
    sums = sum_metrics(parts)
    return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}
