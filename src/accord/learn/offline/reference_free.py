"""Preference methods without a reference model: ORPO and SimPO."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from accord.learn.loop.objective import Losses, Objective, ReferenceFactory, metric
from accord.learn.offline.pairs import pair_metrics
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives.reference_free import odds_ratio_loss, simpo_loss
from accord.settings.preferences import OrpoSettings, SimpoSettings


def orpo(
    lm: LanguageModel,
    settings: OrpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """The chosen response's mean negative log-likelihood plus λ times the odds-ratio loss.

    The likelihood is the response's alone; the authors' code and TRL's add the prompt's.
    """

    def losses(batch: PackedBatch, rows: Sequence[int], context: None, *, log: bool) -> Losses:
        logps, means = _logps_and_means(lm, batch)
        pairs = batch.pairs
        odds = odds_ratio_loss(means[pairs.chosen], means[pairs.rejected])
        values = settings.beta * odds - means[pairs.chosen]
        if not log:
            return Losses(values, pairs.weights)
        rewards = settings.beta * means
        metrics = pair_metrics(rewards[pairs.chosen], rewards[pairs.rejected], logps, batch)
        metrics["nll_loss"] = metric(-means[pairs.chosen], pairs.weights)
        metrics["odds_ratio_loss"] = metric(odds, pairs.weights)
        return Losses(values, pairs.weights, metrics)

    return Objective(losses)


def simpo(
    lm: LanguageModel,
    settings: SimpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """SimPO on pairs; a ranking counts as the mean of its pairs."""

    def losses(batch: PackedBatch, rows: Sequence[int], context: None, *, log: bool) -> Losses:
        logps, means = _logps_and_means(lm, batch)
        pairs = batch.pairs
        values = simpo_loss(
            means[pairs.chosen], means[pairs.rejected], beta=settings.beta, gamma=settings.gamma
        )
        if not log:
            return Losses(values, pairs.weights)
        rewards = settings.beta * means
        metrics = pair_metrics(rewards[pairs.chosen], rewards[pairs.rejected], logps, batch)
        return Losses(values, pairs.weights, metrics)

    return Objective(losses)


def _logps_and_means(lm: LanguageModel, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Each response's log-prob (N,), and its mean a token (N,)."""
    logps = batch.per_response(response_logps(lm, batch))
    return logps, logps / batch.lengths
