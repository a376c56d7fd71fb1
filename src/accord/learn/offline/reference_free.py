"""Preference methods without a reference model: ORPO and SimPO."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accord.learn.loop.objective import Losses, Objective, ReferenceFactory, metric
from accord.learn.offline.pairs import pair_metrics
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.reference_free import odds_ratio_loss, simpo_loss
from accord.settings.preferences import OrpoSettings, SimpoSettings


def orpo(
    lm: LanguageModel,
    settings: OrpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """The chosen response's mean negative log-likelihood plus λ times the odds-ratio loss.

    The likelihood is the response's alone, as in the paper's eq. 6, and averaged over it. With
    `nll_on=prompt_and_response` it is that of all tokens after the first, averaged over the tokens
    of the step, as in the authors' code and in TRL.
    """

    def prepare(rows: Sequence[int]) -> float:
        """The mean number of tokens whose likelihood a row of the step adds."""
        return sum(_tokens_with_prompt(groups[i]) for i in rows) / len(rows)

    def losses(batch: PackedBatch, rows: Sequence[int], context: float, *, log: bool) -> Losses:
        logps, means = _logps_and_means(lm, batch)
        pairs = batch.pairs
        odds = odds_ratio_loss(means[pairs.chosen], means[pairs.rejected])
        nll = -means[pairs.chosen]
        if settings.nll_on == "prompt_and_response":
            prompts = _prompt_logps(lm, batch)[_group_of_pair(batch)]
            nll = -(prompts + logps[pairs.chosen]) / context
        values = settings.beta * odds + nll
        if not log:
            return Losses(values, pairs.weights)
        rewards = settings.beta * means
        metrics = pair_metrics(rewards[pairs.chosen], rewards[pairs.rejected], logps, batch)
        metrics["nll_loss"] = metric(nll, pairs.weights)
        metrics["odds_ratio_loss"] = metric(odds, pairs.weights)
        return Losses(values, pairs.weights, metrics)

    return Objective(losses, prepare if settings.nll_on == "prompt_and_response" else lambda _: 1.0)


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


def _tokens_with_prompt(group: PromptGroup) -> float:
    """Tokens after the first of the prompt with a chosen response: the mean over its pairs."""
    return len(group.prompt) - 1 + group.mean_chosen_length


def _prompt_logps(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The summed log-prob (G,) of each group's prompt after its first token."""
    longer = [i for i, group in enumerate(batch.groups) if len(group.prompt) > 1]
    logps = torch.zeros(len(batch.groups), device=batch.device)
    if longer:
        prompts = [batch.groups[i].prompt for i in longer]
        packed = pack([PromptGroup(p[:1], (p[1:],)) for p in prompts], batch.device)
        sums = packed.per_response(response_logps(lm, packed))
        logps = logps.index_add(0, torch.tensor(longer, device=batch.device), sums)
    return logps


def _group_of_pair(batch: PackedBatch) -> Tensor:
    """The index (P,) of each pair's group."""
    counts = [len(group.weighted_pairs) for group in batch.groups]
    index = [i for i, count in enumerate(counts) for _ in range(count)]
    return torch.tensor(index, device=batch.device)
