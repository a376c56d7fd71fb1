"""Kahneman-Tversky optimisation: single responses labelled desirable or undesirable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.learn.loop.objective import Losses, Metric, Objective, ReferenceFactory, metric
from accord.learn.loop.processes import processes
from accord.learn.offline.mismatched import (
    append_mismatched,
    fits_in_one_pass,
    log_probs_and_mismatched_ratios,
    mismatched_groups,
    reference_log_probs,
)
from accord.learn.offline.pairs import accuracy
from accord.lm.forward import response_stats
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.lm.tokens.token_rows import count_labels
from accord.objectives.unpaired import kto_loss, kto_reference_point
from accord.settings.preferences import KtoSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepContext:
    """What KTO's losses need of a whole step.

    By row number, `ref_logps` are the reference's log-probs of the row's response tokens.
    `reference_point` is z₀; it is None where the step's one pass computes it from its mismatched
    responses, whose reference log-probs are `mismatched_ref_logps`.
    """

    num_desirable: int
    num_undesirable: int
    ref_logps: dict[int, Tensor]
    reference_point: float | None
    mismatched_ref_logps: dict[int, Tensor]


def kto(
    lm: LanguageModel,
    settings: KtoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """KTO on labelled responses, each counting one; or, with `apo_zero_unpaired`, without z₀.

    z₀ is the mean over the step's rows of log π/π_ref of another row's response to their prompt,
    so it does not depend on how the step is split. The matching is fixed for the run.
    """
    settings = balance_weights(settings, groups)
    assert settings.desirable_weight is not None
    assert settings.undesirable_weight is not None
    weights = (settings.desirable_weight, settings.undesirable_weight)
    mismatched = mismatched_groups(groups, settings) if settings.loss_type == "kto" else []
    appended = append_mismatched(groups, mismatched)
    look_up_ref_logps = reference(appended)

    def prepare(rows: Sequence[int]) -> StepContext:
        labels = [label for i in rows for label in groups[i].labels]
        counts = sum(labels), len(labels) - sum(labels)
        if mismatched and fits_in_one_pass(lm, groups, rows, settings, processes()):
            ref_logps, extra = reference_log_probs(
                lm, appended, mismatched, look_up_ref_logps, rows
            )
            return StepContext(*counts, ref_logps, None, extra)
        ref_logps, ratios = log_probs_and_mismatched_ratios(
            lm, appended, mismatched, look_up_ref_logps, rows, settings, processes()
        )
        reference_point = float(kto_reference_point(ratios)) if mismatched else 0.0
        return StepContext(*counts, ref_logps, reference_point, {})

    def losses(
        batch: PackedBatch, rows: Sequence[int], context: StepContext, *, log: bool
    ) -> Losses:
        ref_logps = torch.cat([context.ref_logps[i] for i in rows]).to(batch.device)
        reference_point = context.reference_point
        if reference_point is None:
            extra = [mismatched[i].responses[0] for i in rows]
            stats = response_stats(lm, batch, extra_responses=extra)
            assert stats.extra_logps is not None
            extra_ref_logps = torch.cat([context.mismatched_ref_logps[i] for i in rows])
            extra_ratios = (stats.extra_logps - extra_ref_logps).split([*map(len, extra)])
            sums = torch.stack([part.sum() for part in extra_ratios])
            reference_point = float(kto_reference_point(sums))
        else:
            stats = response_stats(lm, batch)
        ratios = batch.per_response(stats.logps - ref_logps)
        labels = [label for group in batch.groups for label in group.labels]
        desirable = torch.tensor(labels, device=batch.device)
        values = kto_loss(
            ratios,
            desirable,
            reference_point,
            beta=settings.beta,
            desirable_weight=weights[0],
            undesirable_weight=weights[1],
        )
        metrics: dict[str, Metric] = {}
        if log:
            rewards = settings.beta * ratios.detach()
            logps = batch.per_response(stats.logps.detach())
            metrics = _metrics(rewards, logps, desirable, batch, context, reference_point)
            metrics["rewards/accuracies"] = _accuracy(
                ratios.detach() - reference_point, desirable, weights
            )
        return Losses(values, torch.ones_like(values), metrics)

    return Objective(losses, prepare)


def balance_weights(settings: KtoSettings, groups: Sequence[PromptGroup]) -> KtoSettings:
    """The settings with both weights; λ_D·n_D : λ_U·n_U becomes 1 : 1 where they are not given.

    Ethayarajh et al. 2024, eq. 8 and 9, allow 1 to 4/3. The rarer kind is weighted up, the other
    has weight 1; where one weight is given, the other is set to match it.
    """
    if settings.desirable_weight is not None and settings.undesirable_weight is not None:
        return settings
    num_labels, num_desirable = count_labels(groups)
    num_undesirable = num_labels - num_desirable
    if not num_desirable or not num_undesirable:
        if num_labels:
            log.warning(
                "All %d responses are %s, so there is no contrast to learn from. If their scores "
                "are on another scale, set desirable_from (now %g).",
                num_labels,
                "desirable" if num_desirable else "undesirable",
                settings.desirable_from,
            )
        num_desirable = num_undesirable = 1
    if settings.desirable_weight is not None:
        weights = (
            settings.desirable_weight,
            settings.desirable_weight * num_desirable / num_undesirable,
        )
    elif settings.undesirable_weight is not None:
        weights = (
            settings.undesirable_weight * num_undesirable / num_desirable,
            settings.undesirable_weight,
        )
    else:
        weights = (
            max(1.0, num_undesirable / num_desirable),
            max(1.0, num_desirable / num_undesirable),
        )
    if num_labels:
        log.info(
            "Desirable responses weigh %.3g each and undesirable ones %.3g, so that both kinds "
            "have the same total weight.",
            *weights,
        )
    return settings.model_copy(
        update={"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    )


def _accuracy(above: Tensor, desirable: Tensor, weights: tuple[float, float]) -> Metric:
    """The share of responses on the correct side of z₀: r − z₀ above 0 for desirable ones, below 0
    for undesirable ones. Each has its weight of the loss, so that a rare kind is not drowned."""
    signed = torch.where(desirable, above, -above)
    return metric(accuracy(signed), torch.where(desirable, *weights))


def _metrics(
    rewards: Tensor,
    logps: Tensor,
    desirable: Tensor,
    batch: PackedBatch,
    context: StepContext,
    reference_point: float,
) -> dict[str, Metric]:
    """Metrics of desirable ("chosen") and undesirable responses, as sums over a pass."""
    chosen, rejected = desirable.float(), (~desirable).float()
    metrics: dict[str, Metric] = {}
    for name, values in (("rewards", rewards), ("logps", logps), ("lengths", batch.lengths)):
        metrics[f"{name}/chosen"] = metric(values, chosen)
        metrics[f"{name}/rejected"] = metric(values, rejected)
    share = len(desirable) / (context.num_desirable + context.num_undesirable)
    if context.num_desirable and context.num_undesirable:
        # The step's means are split over its passes, whose shares add up to 1.
        margin = (
            rewards * (chosen / context.num_desirable - rejected / context.num_undesirable)
        ).sum()
        metrics["rewards/margins"] = (float(margin), share)
    metrics["kl"] = (reference_point * share, share)
    return metrics
