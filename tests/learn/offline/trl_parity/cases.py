"""The cases of the parity test: a trainer of TRL's with its configuration, and the same loss.

The loss is that of `accord.objectives` on log-probs that transformers gives row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
)
from accord.objectives.lengths import length_desensitised_weights
from accord.objectives.optimal_transport import aot_loss, aot_unpaired_loss
from accord.objectives.policy import (
    clipped_policy_loss,
    clipped_weight_loss,
    sequence_log_ratio,
)
from accord.objectives.preference import (
    discopop_loss,
    dpo_loss,
    dpo_normalised_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    robust_loss,
    wpo_weights,
)
from accord.objectives.reference_free import odds_ratio_loss, simpo_loss
from accord.objectives.reward import bradley_terry_loss, centering_penalty
from accord.objectives.unpaired import kto_loss, kto_reference_point
from tests.learn.offline.trl_parity.rows import (
    DEMONSTRATIONS,
    DIALOGUES,
    EPISODES,
    MARGINS,
    PAIRS,
    SHORT_PROMPTS,
    UNPAIRED,
    WITHOUT_MARGIN,
    Batch,
    ResponseLogps,
)

Loss = Callable[[Batch], Tensor]


def loss_on_ratios(loss: Callable[..., Tensor], **options: float) -> Loss:
    return lambda batch: loss(*batch.ratios, **options).mean()


def loss_on_ratios_and_lengths(loss: Callable[..., Tensor], **options: float) -> Loss:
    return lambda batch: loss(*batch.ratios, *batch.lengths, **options).mean()


def loss_on_means(loss: Callable[..., Tensor], **options: float) -> Loss:
    return lambda batch: loss(*batch.means, **options).mean()


def loss_on_rewards(reward: Callable[[Tensor], Tensor]) -> Loss:
    return lambda batch: dpo_loss(*map(reward, batch.ratios), beta=0.5).mean()


def sft(batch: Batch) -> Tensor:
    """The mean over all tokens of the batch, not the mean of the responses' means."""
    return -torch.cat([x.policy for x in batch.first]).mean()


def mixture(batch: Batch) -> Tensor:
    return 0.8 * dpo_loss(*batch.ratios, beta=0.5).mean() + 0.3 * sft(batch)


def aot(batch: Batch) -> Tensor:
    pairs = list(zip(batch.first, batch.second, strict=True))
    policy = torch.stack([c.policy.sum() - r.policy.sum() for c, r in pairs])
    reference = torch.stack([c.reference.sum() - r.reference.sum() for c, r in pairs])
    return aot_loss(policy, reference, beta=0.5).mean()


def length_desensitised(batch: Batch) -> Tensor:
    def ratios(side: list[ResponseLogps], lengths: Tensor, other_lengths: Tensor) -> Tensor:
        weights = length_desensitised_weights(lengths, other_lengths, alpha=0.4).split(
            lengths.tolist()
        )
        return torch.stack(
            [(w * (x.policy - x.reference)).sum() for w, x in zip(weights, side, strict=True)]
        )

    chosen_lengths, rejected_lengths = batch.lengths
    chosen = ratios(batch.first, chosen_lengths, rejected_lengths)
    rejected = ratios(batch.second, rejected_lengths, chosen_lengths)
    return dpo_loss(chosen, rejected, beta=0.5).mean()


def wpo(batch: Batch) -> Tensor:
    """With log Σ p² of the policy's whole distributions."""
    chosen, rejected = (
        torch.stack([(x.policy - x.log_squares).mean() for x in side])
        for side in (batch.first, batch.second)
    )
    return (wpo_weights(chosen, rejected) * dpo_loss(*batch.ratios, beta=0.5)).mean()


def kto(batch: Batch) -> Tensor:
    ratios, mismatched = batch.ratios
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    return kto_loss(
        ratios, batch.labels, kto_reference_point(mismatched), beta=0.5, **weights
    ).mean()


def apo_zero_unpaired(batch: Batch) -> Tensor:
    return kto_loss(batch.ratios[0], batch.labels, 0.0, beta=0.5).mean()


def orpo(batch: Batch) -> Tensor:
    """TRL's likelihood is of the chosen row's prompt too, all but its first token."""
    nll = -torch.cat([torch.cat([x.prompt, x.policy]) for x in batch.first]).mean()
    return nll + 0.3 * odds_ratio_loss(*batch.means).mean()


ADVANTAGES = torch.tensor([row["advantage"] for row in EPISODES])


def policy_terms(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of all tokens: log π, with gradient, log π/π_old and the advantage. The old policy is the
    model that the batch calls the reference."""
    logps = torch.cat([x.policy for x in batch.first])
    old_logps = torch.cat([x.reference for x in batch.first])
    return logps, logps - old_logps, ADVANTAGES.repeat_interleave(batch.lengths[0])


def grpo(batch: Batch) -> Tensor:
    _, log_ratio, advantages = policy_terms(batch)
    return clipped_policy_loss(log_ratio, advantages, clip_low=0.3, clip_high=0.28).mean()


def gspo(batch: Batch) -> Tensor:
    """The mean of the responses' means."""
    _, log_ratio, advantages = policy_terms(batch)
    lengths = batch.lengths[0]
    response_indices = torch.arange(len(lengths)).repeat_interleave(lengths)
    log_ratio = sequence_log_ratio(log_ratio, response_indices, lengths)
    losses = clipped_policy_loss(log_ratio, advantages, clip_low=0.1, clip_high=0.02)
    return torch.stack([part.mean() for part in losses.split(lengths.tolist())]).mean()


def cispo(batch: Batch) -> Tensor:
    """TRL bounds the weights above only; its bound is of the ratio itself: 1.25."""
    return clipped_weight_loss(*policy_terms(batch), clip_low=1.0, clip_high=0.25).mean()


@dataclass(frozen=True)
class Case:
    """`loss` takes a `Batch`; for a reward model, the scores of the chosen and the rejected."""

    name: str
    trainer: str
    config: dict[str, Any]
    loss: Callable[..., Tensor]
    rows: list[dict[str, Any]] = field(default_factory=lambda: PAIRS)


def on_episodes(name: str, loss: Loss, **config: Any) -> Case:
    """GRPO's trainer on responses of another policy, without a KL."""
    return Case(name, "grpo", {"num_generations": 2, "beta": 0.0, **config}, loss, EPISODES)


def dpo(name: str, loss: Loss, **config: Any) -> Case:
    return Case(name, "dpo", {"loss_type": [name], "beta": 0.5, **config}, loss)


CASES = [
    dpo("sigmoid", loss_on_ratios(dpo_loss, beta=0.5)),
    # With this β some pairs are past the hinge and some are not.
    dpo("hinge", loss_on_ratios(hinge_loss, beta=2.0), beta=2.0),
    dpo("ipo", loss_on_ratios_and_lengths(ipo_loss, beta=0.5)),
    dpo("robust", loss_on_ratios(robust_loss, beta=0.5, label_smoothing=0.1), label_smoothing=0.1),
    dpo(
        "exo_pair",
        loss_on_ratios(exo_pair_loss, beta=0.5, label_smoothing=0.1),
        label_smoothing=0.1,
    ),
    dpo("nca_pair", loss_on_ratios(nca_pair_loss, beta=0.5)),
    # TRL 1.16 leaves out the shift by a running mean.
    dpo("bco_pair", loss_on_ratios(bco_pair_loss, beta=0.5, delta=0.0)),
    dpo("sppo_hard", loss_on_ratios(sppo_hard_loss, beta=0.5)),
    dpo("aot", aot),
    dpo("aot_unpaired", loss_on_ratios(aot_unpaired_loss, beta=0.5)),
    dpo("apo_zero", loss_on_ratios(apo_zero_loss, beta=0.5)),
    dpo("apo_down", loss_on_ratios(apo_down_loss, beta=0.5)),
    dpo("discopop", loss_on_ratios(discopop_loss, beta=0.5, tau=0.05)),
    dpo("sigmoid_norm", loss_on_ratios_and_lengths(dpo_normalised_loss, beta=0.5)),
    dpo("sft", sft),
    dpo("mixture", mixture, loss_type=["sigmoid", "sft"], loss_weights=[0.8, 0.3]),
    dpo("ld", length_desensitised, loss_type=["sigmoid"], ld_alpha=0.4),
    dpo(
        "forward_kl",
        loss_on_rewards(forward_kl_reward),
        loss_type=["sigmoid"],
        f_divergence_type="forward_kl",
    ),
    dpo(
        "jensen_shannon",
        loss_on_rewards(jensen_shannon_reward),
        loss_type=["sigmoid"],
        f_divergence_type="js_divergence",
    ),
    dpo(
        "alpha",
        loss_on_rewards(partial(alpha_divergence_reward, alpha=0.3)),
        loss_type=["sigmoid"],
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=0.7,  # 1 minus the paper's α
    ),
    dpo("weighted", wpo, loss_type=["sigmoid"], use_weighting=True),
    # TRL's sigmoid ignores label_smoothing without a warning: it has no cDPO.
    dpo("smoothed", loss_on_ratios(dpo_loss, beta=0.5), loss_type=["sigmoid"], label_smoothing=0.1),
    Case(
        "kto",
        "kto",
        {"beta": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.7},
        kto,
        UNPAIRED,
    ),
    Case(
        "apo_zero_unpaired",
        "kto",
        {"beta": 0.5, "loss_type": "apo_zero_unpaired"},
        apo_zero_unpaired,
        UNPAIRED,
    ),
    Case("orpo", "orpo", {"beta": 0.3}, orpo),
    # Prompts of one token, which is never predicted, and chosen responses of one length: here
    # TRL's likelihood is of the responses alone, each counting the same.
    Case("orpo_responses", "orpo", {"beta": 0.3}, orpo, SHORT_PROMPTS),
    Case(
        "simpo",
        "cpo",
        # Unless cpo_alpha is 0, TRL adds a likelihood term that SimPO does not have.
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
        loss_on_means(simpo_loss, beta=2.0, gamma=0.5),
    ),
    Case("reward", "reward", {}, lambda c, r: bradley_terry_loss(c, r).mean(), WITHOUT_MARGIN),
    Case(
        "reward_margin",
        "reward",
        {"center_rewards_coefficient": 0.1},
        lambda c, r: (bradley_terry_loss(c, r, MARGINS) + 0.1 * centering_penalty(c, r)).mean(),
    ),
    Case("completions", "sft", {}, sft, DEMONSTRATIONS),
    Case("assistant", "sft", {"assistant_only_loss": True}, sft, DIALOGUES),
    on_episodes("grpo", grpo, loss_type="dapo", epsilon=0.3, epsilon_high=0.28),
    on_episodes(
        "gspo",
        gspo,
        loss_type="grpo",
        importance_sampling_level="sequence",
        epsilon=0.1,
        epsilon_high=0.02,
    ),
    on_episodes("cispo", cispo, loss_type="cispo", epsilon_high=1.25),
]
