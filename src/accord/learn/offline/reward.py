"""Reward models."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.objective import Losses, Metric, Objective, ReferenceFactory, metric
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.pairs import accuracy
from accord.lm.forward import response_head_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives.reward import (
    bradley_terry_loss,
    centering_penalty,
    plackett_luce_loss,
)
from accord.settings.training import RewardSettings

log = logging.getLogger(__name__)

BOOTSTRAP = 1 << 41  # the streams of random numbers that draw each head's rows


def reward(
    lm: LanguageModel,
    settings: RewardSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """Bradley-Terry on pairs; on rankings the mean over pairs, or Plackett-Luce.

    With several heads the mean of their losses, each on its own bootstrap sample of the rows.
    With length regularisation the loss is that of the scores plus λ·α̂·length: what length
    explains, the scores need not.
    """
    settings = settled(settings, groups)
    if settings.ranking_loss == "plackett_luce":
        _refuse_margins(groups)
    per_token = settings.length_regularisation * (settings.length_slope or 0.0)
    draws = bootstrap(len(groups), lm.heads, settings.seed)

    def losses(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        scores, pairs = response_head_scores(lm, batch), batch.pairs
        judged = scores + per_token * batch.lengths[:, None]
        counts = torch.tensor([len(g.responses) for g in batch.groups], device=batch.device)
        group_of = torch.arange(len(counts), device=batch.device)
        if settings.ranking_loss == "plackett_luce":
            values = _plackett_luce(judged, counts, batch)
            weights = values.new_ones(len(values))
        else:
            values = bradley_terry_loss(
                judged[pairs.chosen], judged[pairs.rejected], pairs.margins[:, None]
            )
            penalty = centering_penalty(scores[pairs.chosen], scores[pairs.rejected])
            values = values + settings.center_rewards_coefficient * penalty
            group_of = group_of.repeat_interleave(counts)[pairs.chosen]
            weights = pairs.weights
        if settings.bootstrap and lm.heads > 1:
            values = values * draws[list(rows)].to(values)[group_of]
        metrics = _metrics(scores.detach(), batch) if log else {}
        return Losses(values.mean(1), weights, metrics)

    return Objective(losses)


def settled(settings: RewardSettings, groups: Sequence[PromptGroup]) -> RewardSettings:
    """The settings with the slope of the length fitted to the training pairs, if it is needed."""
    if not settings.length_regularisation or settings.length_slope is not None or not groups:
        return settings
    slope = length_slope(groups)
    log.info(
        "By length alone, a token more adds %.4g to the log-odds of winning; %g of that is taken "
        "out of the reward.",
        slope,
        settings.length_regularisation,
    )
    return settings.model_copy(update={"length_slope": slope})


def measured(settings: RewardSettings) -> RewardSettings:
    """The settings for held-out rows, of which each counts once for each head."""
    return settings.model_copy(update={"bootstrap": False})


def bootstrap(rows: int, heads: int, seed: int) -> Tensor:
    """How often each row is in each head's sample, (rows, heads): as many draws as there are rows.

    The bootstrap of Efron 1979: a function of the seed, the head and the number of rows alone.
    """
    found = torch.zeros(rows, heads)
    for head in range(heads if rows else 0):
        generator = np.random.Generator(np.random.Philox(key=[seed, BOOTSTRAP + head]))
        drawn = generator.integers(0, rows, size=rows)
        found[:, head] = torch.from_numpy(np.bincount(drawn, minlength=rows)).float()
    return found


def _plackett_luce(scores: Tensor, counts: Tensor, batch: PackedBatch) -> Tensor:
    """The loss of each group's ranking (G, heads), of scores (N, heads)."""
    return torch.stack(
        [
            torch.stack([plackett_luce_loss(head, group.ranks) for head in own.unbind(1)])
            for own, group in zip(scores.split(counts.tolist()), batch.groups, strict=True)
        ]
    )


def _refuse_margins(groups: Sequence[PromptGroup]) -> None:
    for group in groups:
        if group.margin:
            raise SettingsError(
                f"{group.source} has a margin, and ranking_loss=plackett_luce has no place for "
                f"one. Use ranking_loss=pairs, or leave the column `margin` out."
            )


def _metrics(scores: Tensor, batch: PackedBatch) -> dict[str, Metric]:
    """The numbers of the heads' mean score; of several heads also how far they disagree."""
    pairs, mean, lengths = batch.pairs, scores.mean(1), batch.lengths.float()
    metrics: dict[str, Metric] = {}
    for name, values in (("rewards", mean), ("lengths", lengths)):
        metrics[f"{name}/chosen"] = metric(values[pairs.chosen], pairs.weights)
        metrics[f"{name}/rejected"] = metric(values[pairs.rejected], pairs.weights)
    margins = mean[pairs.chosen] - mean[pairs.rejected]
    metrics["rewards/margins"] = metric(margins, pairs.weights)
    metrics["rewards/accuracies"] = metric(accuracy(margins), pairs.weights)
    if scores.shape[1] > 1:
        # Of the margin, since a head's scores are known up to a constant of its own only.
        spread = (scores[pairs.chosen] - scores[pairs.rejected]).std(1, unbiased=False)
        metrics["rewards/std"] = metric(spread, pairs.weights)
    return metrics
