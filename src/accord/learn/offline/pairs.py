"""What the pair methods share: metrics, and the indices of a pair's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.objective import Metric, metric
from accord.lm.packing import PackedBatch, PromptGroup


def accuracy(margins: Tensor) -> Tensor:
    """1 where the margin is positive, ½ where it is zero."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def pair_metrics(
    chosen: Tensor, rejected: Tensor, logps: Tensor, batch: PackedBatch
) -> dict[str, Metric]:
    """Metrics of a preference method, from the rewards (pairs,) of the chosen and rejected
    responses and from the log-probs (N,) of all."""
    weights, margins = batch.pairs.preferred, chosen - rejected
    return {
        "rewards/chosen": metric(chosen, weights),
        "rewards/rejected": metric(rejected, weights),
        "rewards/margins": metric(margins, weights),
        "rewards/accuracies": metric(accuracy(margins.detach()), weights),
        **side_metrics("logps", logps, batch),
        **side_metrics("lengths", batch.lengths.float(), batch),
    }


def side_metrics(name: str, values: Tensor, batch: PackedBatch) -> dict[str, Metric]:
    """The means of the responses' values (N,) over the chosen and over the rejected of pairs."""
    pairs = batch.pairs
    return {
        f"{name}/chosen": metric(values[pairs.chosen], pairs.preferred),
        f"{name}/rejected": metric(values[pairs.rejected], pairs.preferred),
    }


def check_no_soft_labels(groups: Sequence[PromptGroup], method: str) -> None:
    """Raise SettingsError where a row has a soft label, for a `method` that takes none."""
    for group in groups:
        if len(group.weighted_rankings) > 1:
            p = group.probability
            label = f"{len(group.votes)} votes" if p is None else f"{p:g}"
            raise SettingsError(
                f"{method}, which takes no soft labels, and {group.source} has one, {label}. Set "
                "`filter.labels=majority`, or choose another loss."
            )


def token_indices(batch: PackedBatch, responses: Tensor) -> Tensor:
    """Indices, among the batch's response tokens, of given responses (P,) one after another."""
    starts = batch.lengths.cumsum(0) - batch.lengths
    lengths = batch.lengths[responses]
    ends = lengths.cumsum(0)
    offset = torch.arange(int(ends[-1]), device=batch.device)
    offset = offset - (ends - lengths).repeat_interleave(lengths)
    return starts[responses].repeat_interleave(lengths) + offset
