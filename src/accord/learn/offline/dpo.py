"""Direct preference optimisation, its variants, and IPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.objective import Losses, Objective, ReferenceFactory, metric
from accord.learn.offline.pairs import pair_metrics, side_metrics, token_indices
from accord.lm.forward import response_stats
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives.anchored import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    nca_pair_loss,
    sppo_hard_loss,
)
from accord.objectives.f_divergences import (
    alpha_divergence_reward,
    forward_kl_reward,
    jensen_shannon_reward,
    reverse_kl_reward,
)
from accord.objectives.lengths import length_desensitised_weights
from accord.objectives.optimal_transport import aot_loss, aot_unpaired_loss
from accord.objectives.preference import (
    cdpo_loss,
    discopop_loss,
    dpo_loss,
    dpo_normalised_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    ipo_summed_loss,
    robust_loss,
    wpo_weights,
)
from accord.settings.preferences import Divergence, DpoSettings, IpoSettings, PairLoss


@dataclass(frozen=True, slots=True)
class PairTerms:
    """What a loss may read of each pair, all (pairs,): log-ratios to the reference (or what an
    f-divergence makes of them), lengths in tokens, and the chosen response's summed log-prob."""

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    chosen_logp: Tensor
    policy_margin: Tensor  # chosen − rejected log-prob
    chosen_length_in_step: float  # the mean over the pairs of the whole step


PAIR_LOSSES: dict[PairLoss, Callable[[PairTerms, DpoSettings], Tensor]] = {
    "sigmoid": lambda t, s: (
        cdpo_loss(t.chosen, t.rejected, beta=s.beta, label_smoothing=s.label_smoothing)
        if s.label_smoothing
        else dpo_loss(t.chosen, t.rejected, beta=s.beta)
    ),
    "hinge": lambda t, s: hinge_loss(t.chosen, t.rejected, beta=s.beta),
    "ipo": lambda t, s: ipo_loss(
        t.chosen, t.rejected, t.chosen_length, t.rejected_length, beta=s.beta
    ),
    "ipo_summed": lambda t, s: ipo_summed_loss(t.chosen, t.rejected, beta=s.beta),
    "robust": lambda t, s: robust_loss(
        t.chosen, t.rejected, beta=s.beta, label_smoothing=s.label_smoothing
    ),
    "exo_pair": lambda t, s: exo_pair_loss(
        t.chosen, t.rejected, beta=s.beta, label_smoothing=s.label_smoothing
    ),
    "nca_pair": lambda t, s: nca_pair_loss(t.chosen, t.rejected, beta=s.beta),
    "sppo_hard": lambda t, s: sppo_hard_loss(t.chosen, t.rejected, beta=s.beta),
    "apo_zero": lambda t, s: apo_zero_loss(t.chosen, t.rejected, beta=s.beta),
    "apo_down": lambda t, s: apo_down_loss(t.chosen, t.rejected, beta=s.beta),
    "bco_pair": lambda t, s: bco_pair_loss(
        t.chosen,
        t.rejected,
        beta=s.beta,
        # Departs from the running mean of the paper: this forward pass's own, so that nothing
        # is carried from step to step.
        delta=s.beta * 0.5 * (t.chosen + t.rejected).detach().mean(),
    ),
    "aot": lambda t, s: aot_loss(
        t.policy_margin, t.policy_margin - (t.chosen - t.rejected), beta=s.beta
    ),
    "aot_unpaired": lambda t, s: aot_unpaired_loss(t.chosen, t.rejected, beta=s.beta),
    "discopop": lambda t, s: discopop_loss(t.chosen, t.rejected, beta=s.beta, tau=s.discopop_tau),
    "sigmoid_norm": lambda t, s: dpo_normalised_loss(
        t.chosen, t.rejected, t.chosen_length, t.rejected_length, beta=s.beta
    ),
    # The mean over the step's tokens, as in supervised fine-tuning on the chosen responses.
    "sft": lambda t, s: -t.chosen_logp / t.chosen_length_in_step,
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
        if loss in ("aot", "aot_unpaired"):
            _check_no_rankings(groups, loss)
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
        values = torch.stack(
            [share * PAIR_LOSSES[name](terms, settings) for name, share in settings.losses.items()]
        ).sum(0)
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
            metrics["wpo/weight"] = metric(weights, pairs.weights)
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
    total = 0.0
    for group in groups:
        chosen = [len(group.responses[i]) for i, _ in group.preference_pairs]
        total += sum(chosen) / len(chosen)
    return total / len(groups)
