"""Direct preference optimisation, its variants, and IPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.objective import Losses, Objective, ReferenceFactory, metric
from accord.learn.offline.pairs import (
    check_no_soft_labels,
    pair_metrics,
    side_metrics,
    token_indices,
)
from accord.lm.forward import response_stats
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives import anchored, optimal_transport, preference
from accord.objectives.f_divergences import (
    alpha_divergence_reward,
    forward_kl_reward,
    jensen_shannon_reward,
    reverse_kl_reward,
)
from accord.objectives.lengths import length_desensitised_weights
from accord.objectives.pair_terms import PairLossFunction, PairTerms
from accord.objectives.preference import ipo_loss, ipo_summed_loss, wpo_weights
from accord.settings.preferences import (
    SORTED_LOSSES,
    WHOLE_PASS_LOSSES,
    Divergence,
    DpoSettings,
    IpoSettings,
    PairLoss,
)

PAIR_LOSSES: dict[str, PairLossFunction] = {
    **preference.PAIR_LOSSES,
    **anchored.PAIR_LOSSES,
    **optimal_transport.PAIR_LOSSES,
}

DIVERGENCES: dict[Divergence, Callable[[Tensor, DpoSettings], Tensor]] = {
    "reverse_kl": lambda x, s: reverse_kl_reward(x),
    "forward_kl": lambda x, s: forward_kl_reward(x),
    "js_divergence": lambda x, s: jensen_shannon_reward(x),
    "alpha_divergence": lambda x, s: alpha_divergence_reward(
        x, alpha=1 - s.f_alpha_divergence_coef
    ),
}


def dpo(
    lm: LanguageModel,
    settings: DpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """DPO's losses on pairs; a ranking counts as the mean of its pairs.

    `aot` and `bco_pair` couple all pairs of a forward pass, so with them its size matters.
    """
    for loss in settings.losses:
        if loss in SORTED_LOSSES:
            _check_no_rankings(groups, loss)
        if loss in WHOLE_PASS_LOSSES:
            check_no_soft_labels(groups, f"loss_type={loss} compares the pairs of a pass")
    weighted = [(share, PAIR_LOSSES[name]) for name, share in settings.losses.items()]
    return pair_objective(lm, settings, groups, reference, weighted)


def pair_objective(
    lm: LanguageModel,
    settings: DpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
    pair_losses: Sequence[tuple[float, PairLossFunction]],
) -> Objective:
    """The weighted sum of losses on pairs, with DPO's metrics."""
    ref_logps = reference(groups)

    def prepare(rows: Sequence[int]) -> float:
        """The mean length of the step's chosen responses, for the loss `sft`."""
        return _mean_chosen_length([groups[i] for i in rows])

    def losses(batch: PackedBatch, rows: Sequence[int], context: float, *, log: bool) -> Losses:
        logps, ratios, alignment = _log_ratios(
            lm, batch, ref_logps(batch, rows), weighted=settings.use_weighting
        )
        pairs = batch.pairs
        chosen = _pair_sums(ratios, batch, pairs.chosen, pairs.rejected, settings.ld_alpha)
        rejected = _pair_sums(ratios, batch, pairs.rejected, pairs.chosen, settings.ld_alpha)
        reward = DIVERGENCES[settings.f_divergence_type]
        summed = batch.per_response(logps)
        terms = PairTerms(
            reward(chosen, settings),
            reward(rejected, settings),
            batch.lengths[pairs.chosen],
            batch.lengths[pairs.rejected],
            summed[pairs.chosen],
            summed[pairs.chosen] - summed[pairs.rejected],
            context,
        )
        values = torch.stack([share * loss(terms, settings) for share, loss in pair_losses]).sum(0)
        weights = None
        if alignment is not None:
            weights = wpo_weights(alignment[pairs.chosen], alignment[pairs.rejected])
            values = values * weights
        if not log:
            return Losses(values, pairs.weights)
        metrics = pair_metrics(
            settings.beta * terms.chosen, settings.beta * terms.rejected, summed, batch
        )
        if settings.f_divergence_type != "reverse_kl" or settings.ld_alpha is not None:
            # Otherwise they are the rewards without beta.
            metrics |= side_metrics("logratios", batch.per_response(ratios), batch)
        if weights is not None:
            metrics["wpo/weight"] = metric(weights, pairs.preferred)
        return Losses(values, pairs.weights, metrics)

    return Objective(losses, prepare)


def ipo(
    lm: LanguageModel,
    settings: IpoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """Identity preference optimisation on pairs; a ranking counts as the mean of its pairs."""
    ref_logps = reference(groups)

    def losses(batch: PackedBatch, rows: Sequence[int], context: None, *, log: bool) -> Losses:
        logps, ratios, _ = _log_ratios(lm, batch, ref_logps(batch, rows))
        pairs, summed = batch.pairs, batch.per_response(ratios)
        chosen, rejected = summed[pairs.chosen], summed[pairs.rejected]
        if settings.average_log_probs:
            lengths = batch.lengths[pairs.chosen], batch.lengths[pairs.rejected]
            values = ipo_loss(chosen, rejected, *lengths, beta=settings.beta)
            chosen, rejected = chosen / lengths[0], rejected / lengths[1]
        else:
            values = ipo_summed_loss(chosen, rejected, beta=settings.beta)
        if not log:
            return Losses(values, pairs.weights)
        metrics = pair_metrics(
            settings.beta * chosen, settings.beta * rejected, batch.per_response(logps), batch
        )
        if settings.average_log_probs:  # rewards are of means then
            metrics |= side_metrics("logratios", summed, batch)
        return Losses(values, pairs.weights, metrics)

    return Objective(losses)


def _check_no_rankings(groups: Sequence[PromptGroup], loss: PairLoss) -> None:
    for group in groups:
        if len(group.responses) > 2:
            raise SettingsError(
                f"loss_type={loss} sorts all pairs of a pass together, so each must have the "
                f"same weight, and {group.source} ranks {len(group.responses)} responses. Give "
                f"pairs, or choose another loss."
            )


def _log_ratios(
    lm: LanguageModel, batch: PackedBatch, ref_logps: Tensor, *, weighted: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each response token's log-prob, and its log-ratio to the reference, both (R,); for weighted
    pairs also each response's alignment (N,), see `wpo_weights`."""
    stats = response_stats(lm, batch, want={"log_squares"} if weighted else ())
    logps, alignment = stats.logps, None
    if stats.log_squares is not None:
        alignment = batch.per_response(logps.detach() - stats.log_squares) / batch.lengths
    return logps, logps - ref_logps, alignment


def _pair_sums(
    ratios: Tensor, batch: PackedBatch, summed: Tensor, paired: Tensor, ld_alpha: float | None
) -> Tensor:
    """Log-ratios of the responses `summed` (pairs,), summed over tokens; with `ld_alpha` the
    tokens beyond the length of the `paired` response have that weight."""
    if ld_alpha is None:
        return batch.per_response(ratios)[summed]
    lengths = batch.lengths[summed]
    weights = length_desensitised_weights(lengths, batch.lengths[paired], alpha=ld_alpha)
    pair = torch.arange(len(summed), device=batch.device).repeat_interleave(lengths)
    weighted = ratios[token_indices(batch, summed)] * weights
    return ratios.new_zeros(len(summed)).index_add(0, pair, weighted)


def _mean_chosen_length(groups: Sequence[PromptGroup]) -> float:
    """Mean number of tokens of the chosen responses over pairs, each group counting one."""
    return sum(group.mean_chosen_length for group in groups) / len(groups)
