"""Reward models."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.objective import Losses, Metric, Objective, ReferenceFactory, metric
from accord.learn.loop.schedule import row_batches
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.pairs import accuracy, side_metrics
from accord.lm.forward import response_head_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.reward import (
    bradley_terry_loss,
    centering_penalty,
    plackett_luce_loss,
)
from accord.settings.training import RewardSettings

log = logging.getLogger(__name__)

BOOTSTRAP = 1 << 41  # the random streams that draw each head's rows


def reward(
    lm: LanguageModel,
    settings: RewardSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """Bradley-Terry on pairs; on rankings the mean over pairs, or Plackett-Luce; of several
    annotators' rankings the mean.

    With several heads the mean of their losses, each on its own bootstrap sample of the rows.
    With length regularisation the loss is that of the scores plus λ·α̂·length: what length
    explains, the scores need not.
    """
    settings = fit_settings(settings, groups)
    if settings.ranking_loss == "plackett_luce":
        _check_no_margins(groups)
    per_token = settings.length_regularisation * (settings.length_slope or 0.0)
    draws = bootstrap(len(groups), lm.heads, settings.seed)

    def losses(batch: PackedBatch, rows: Sequence[int], context: None, *, log: bool) -> Losses:
        scores, pairs = response_head_scores(lm, batch), batch.pairs
        with_length = scores + per_token * batch.lengths[:, None]
        counts = torch.tensor([len(g.responses) for g in batch.groups], device=batch.device)
        group_indices = torch.arange(len(counts), device=batch.device)
        if settings.ranking_loss == "plackett_luce":
            values = _plackett_luce(with_length, counts, batch)
            weights = values.new_ones(len(values))
        else:
            values = bradley_terry_loss(
                with_length[pairs.chosen], with_length[pairs.rejected], pairs.margins[:, None]
            )
            penalty = centering_penalty(scores[pairs.chosen], scores[pairs.rejected])
            values = values + settings.center_rewards_coefficient * penalty
            group_indices = group_indices.repeat_interleave(counts)[pairs.chosen]
            weights = pairs.weights
        if settings.bootstrap and lm.heads > 1:
            values = values * draws[list(rows)].to(values)[group_indices]
        metrics = _metrics(scores.detach(), batch) if log else {}
        return Losses(values.mean(1), weights, metrics)

    return Objective(losses)


def fit_settings(settings: RewardSettings, groups: Sequence[PromptGroup]) -> RewardSettings:
    """The settings with the length's slope fitted to the training pairs, if it is needed."""
    if not settings.length_regularisation or settings.length_slope is not None or not groups:
        return settings
    slope = length_slope(groups)
    log.info(
        "By length alone, each token adds %.4g to the log-odds of winning; %g of that is removed "
        "from the reward.",
        slope,
        settings.length_regularisation,
    )
    return settings.model_copy(update={"length_slope": slope})


def eval_settings(settings: RewardSettings) -> RewardSettings:
    """The settings of held-out rows: each row counts once for each head."""
    return settings.model_copy(update={"bootstrap": False})


def bootstrap(rows: int, heads: int, seed: int) -> Tensor:
    """How often each row is in each head's sample, (rows, heads): as many draws as there are rows.

    The bootstrap of Efron 1979: a function of the seed, the head and the number of rows alone.
    """
    counts = torch.zeros(rows, heads)
    for head in range(heads if rows else 0):
        generator = np.random.Generator(np.random.Philox(key=[seed, BOOTSTRAP + head]))
        draws = generator.integers(0, rows, size=rows)
        counts[:, head] = torch.from_numpy(np.bincount(draws, minlength=rows)).float()
    return counts


@torch.no_grad()
def normalise_scores(
    lm: LanguageModel, settings: RewardSettings, groups: Sequence[PromptGroup]
) -> None:
    """Set the score's mean and standard deviation over the rows' responses to 0 and 1; of an
    ensemble each head's mean too. Every n-th row is read, `reference_rows` at most."""
    step = max(1, len(groups) // settings.reference_rows)
    sampled = groups[::step][: settings.reference_rows]
    scores: dict[int, Tensor] = {}
    for rows in row_batches(
        [g.num_tokens for g in sampled],
        settings.per_device_train_batch_size,
        max_tokens=settings.max_tokens_per_forward,
    ):
        batch_scores = response_head_scores(lm, pack([sampled[i] for i in rows], lm.device))
        counts = [len(sampled[i].responses) for i in rows]
        scores.update(zip(rows, batch_scores.split(counts), strict=True))
    lm.has_new_head = lm.reads_last_token = False  # trained now, at the end of the response
    lm.score_penalty, lm.length_slope = settings.ensemble_penalty, settings.length_slope
    raw = torch.cat([scores[i] for i in range(len(sampled))])
    lm.head_means = tuple(raw.mean(0).tolist()) if lm.heads > 1 else ()
    flat = lm.combine_heads(raw)
    lm.score_mean = float(flat.mean())
    lm.score_std = max(float(flat.std()), 1e-6)
    if not math.isfinite(lm.score_std):
        lm.score_std = 1.0


def _plackett_luce(scores: Tensor, counts: Tensor, batch: PackedBatch) -> Tensor:
    """The mean loss of each group's rankings (G, heads), of scores (N, heads)."""
    losses = []
    for group_scores, group in zip(scores.split(counts.tolist()), batch.groups, strict=True):
        heads = group_scores.unbind(1)
        rankings = [
            share * torch.stack([plackett_luce_loss(head, ranks) for head in heads])
            for ranks, share in group.weighted_rankings
        ]
        losses.append(torch.stack(rankings).sum(0))
    return torch.stack(losses)


def _check_no_margins(groups: Sequence[PromptGroup]) -> None:
    for group in groups:
        if group.margin:
            raise SettingsError(
                f"{group.source} has a margin, and ranking_loss=plackett_luce takes "
                f"none. Use ranking_loss=pairs, or leave the column `margin` out; for a store, set "
                f"`filter.margins=false`."
            )


def _metrics(scores: Tensor, batch: PackedBatch) -> dict[str, Metric]:
    """Metrics of the heads' mean score; of several heads also their disagreement."""
    pairs, mean = batch.pairs, scores.mean(1)
    metrics = side_metrics("rewards", mean, batch)
    metrics |= side_metrics("lengths", batch.lengths.float(), batch)
    margins = mean[pairs.chosen] - mean[pairs.rejected]
    metrics["rewards/margins"] = metric(margins, pairs.preferred)
    metrics["rewards/accuracies"] = metric(accuracy(margins), pairs.preferred)
    if scores.shape[1] > 1:
        # Of the margin, since each head's scores are known only up to a constant.
        spread = (scores[pairs.chosen] - scores[pairs.rejected]).std(1, unbiased=False)
        metrics["rewards/std"] = metric(spread, pairs.preferred)
    return metrics
