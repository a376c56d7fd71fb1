"""The methods that learn from rows: what each reads, its head, and its objective.

A new method is a loss in `accord.objectives`, a function here that turns a forward pass into
that loss, and a line in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from accord.learn.losses import Losses, Metric, Objective, metric
from accord.lm.forward import hidden_states, response_logps, response_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives.logprobs import token_logps, token_statistics
from accord.objectives.preference import dpo_loss
from accord.objectives.reward import (
    bradley_terry_loss,
    centering_penalty,
    plackett_luce_loss,
)
from accord.settings.training import DpoSettings, RewardSettings, SftSettings


@dataclass(frozen=True, slots=True)
class Method:
    """`kind` of records it learns from; `weight` of a group in a step's mean, known beforehand.

    `objective(lm, settings, reference)` builds the objective; `reference` is one tensor (K,) of
    summed log-probs a row where `needs_reference`, else empty.
    """

    kind: Literal["sft", "preferences"]
    scalar: bool
    needs_reference: bool
    weight: Callable[[PromptGroup], float]
    objective: Callable[[LanguageModel, Any, Sequence[Tensor]], Objective]


def sft(lm: LanguageModel, settings: SftSettings, reference: Sequence[Tensor]) -> Objective:
    """Cross-entropy of each response token."""

    def objective(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        hidden = hidden_states(lm, batch).before
        logps = token_logps(hidden, lm.head, batch.targets)
        metrics: dict[str, Metric] = {}
        if log:
            entropy, correct = token_statistics(hidden.detach(), lm.head, batch.targets)
            metrics["entropy"] = metric(entropy)
            metrics["mean_token_accuracy"] = metric(correct)
        return Losses(-logps, torch.ones_like(logps), metrics)

    return objective


def dpo(lm: LanguageModel, settings: DpoSettings, reference: Sequence[Tensor]) -> Objective:
    """Direct preference optimisation on pairs; a ranking counts as the mean of its pairs."""

    def objective(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        logps = batch.per_response(response_logps(lm, batch))
        ref = torch.cat([reference[i] for i in rows]).to(logps)
        pairs = batch.pairs
        values = dpo_loss(
            logps[pairs.better] - logps[pairs.worse],
            ref[pairs.better] - ref[pairs.worse],
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
        )
        metrics = preference_metrics(settings.beta * (logps - ref), logps, batch) if log else {}
        return Losses(values, pairs.weights, metrics)

    return objective


def preference_metrics(rewards: Tensor, logps: Tensor, batch: PackedBatch) -> dict[str, Metric]:
    """The numbers of a preference method, from the rewards and log-probs (N,) of responses."""
    pairs, lengths = batch.pairs, batch.lengths.float()
    metrics = {}
    for name, values in (("rewards", rewards), ("logps", logps), ("lengths", lengths)):
        metrics[f"{name}/chosen"] = metric(values[pairs.better], pairs.weights)
        metrics[f"{name}/rejected"] = metric(values[pairs.worse], pairs.weights)
    margins = rewards[pairs.better] - rewards[pairs.worse]
    metrics["rewards/margins"] = metric(margins, pairs.weights)
    metrics["rewards/accuracies"] = metric(_accuracy(margins), pairs.weights)
    return metrics


def _accuracy(margins: Tensor) -> Tensor:
    """1 where the margin is positive, ½ where it is zero."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def reward(lm: LanguageModel, settings: RewardSettings, reference: Sequence[Tensor]) -> Objective:
    """Bradley-Terry on pairs; on rankings the mean over pairs, or Plackett-Luce."""

    def objective(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        scores, pairs = response_scores(lm, batch), batch.pairs
        chosen, rejected = scores[pairs.better], scores[pairs.worse]
        metrics: dict[str, Metric] = {}
        if log:
            metrics["rewards/chosen"] = metric(chosen, pairs.weights)
            metrics["rewards/rejected"] = metric(rejected, pairs.weights)
            metrics["rewards/margins"] = metric(chosen - rejected, pairs.weights)
            metrics["rewards/accuracies"] = metric(
                _accuracy((chosen - rejected).detach()), pairs.weights
            )
        if settings.ranking_loss == "plackett_luce":
            per_group = scores.split([len(g.responses) for g in batch.groups])
            values = torch.stack(
                [
                    plackett_luce_loss(s, g.ranks)
                    for s, g in zip(per_group, batch.groups, strict=True)
                ]
            )
            return Losses(values, torch.ones_like(values), metrics)
        values = bradley_terry_loss(chosen, rejected, pairs.margins)
        if settings.center_rewards_coefficient:
            penalty = centering_penalty(chosen, rejected)
            values = values + settings.center_rewards_coefficient * penalty
        return Losses(values, pairs.weights, metrics)

    return objective


METHODS: dict[str, Method] = {
    "sft": Method("sft", False, False, lambda g: float(sum(map(len, g.responses))), sft),
    "reward": Method("preferences", True, False, lambda g: 1.0, reward),
    "dpo": Method("preferences", False, True, lambda g: 1.0, dpo),
}
