"""Settings of the methods that learn from preferences without a reward model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from accord.settings.training import TrainSettings, peak_learning_rate

PairLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "ipo_summed",
    "robust",
    "exo_pair",
    "nca_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "bco_pair",
    "aot",
    "aot_unpaired",
    "discopop",
    "sigmoid_norm",
    "sft",
]
DIFFERENCES = frozenset({"sigmoid", "hinge", "robust", "exo_pair", "discopop", "sft"})
"""Losses that read no more than the difference of a pair's rewards."""

SMOOTHED = frozenset({"sigmoid", "robust", "exo_pair"})
"""Losses that read `label_smoothing`."""

SORTED = frozenset({"aot", "aot_unpaired"})
"""Losses that compare sorted responses, whichever pair they are of."""

OF_A_PASS = SORTED | {"bco_pair"}
"""Losses that look at all pairs of a forward pass together, so that its size matters."""

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


class ReferenceSettings(TrainSettings):
    """What every method with a reference model takes."""

    learning_rate: float = peak_learning_rate(1e-6)
    ref_model: str | None = Field(
        None, description="Reference model; by default the model that training starts from."
    )
    precompute_ref_log_probs: bool | None = Field(
        None,
        description=(
            "Compute the reference's log-probs once, before training, and keep them for later "
            "runs; by default yes, but not under LoRA in a single epoch, where the base with its "
            "adapters off gives them step by step."
        ),
    )

    @model_validator(mode="after")
    def _a_reference_to_compute(self) -> Self:
        if self.precompute_ref_log_probs is False and self.lora is None:
            raise ValueError(
                "`precompute_ref_log_probs=false` needs `lora`: under full tuning the starting "
                "model is gone after the first step. Leave it out."
            )
        return self


class DpoSettings(ReferenceSettings):
    """Direct preference optimisation (Rafailov et al. 2023) and its variants."""

    beta: float = Field(0.1, gt=0, description="Strength of the KL penalty to the reference.")
    loss_type: PairLoss | list[PairLoss] = Field(
        "sigmoid", description="Loss on a pair, or several that are added with `loss_weights`."
    )
    loss_weights: list[float] | None = Field(
        None,
        description="Weight of each loss in `loss_type`, at least 0 and one above it; by default "
        "1 each.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Probability that a preference is flipped: cDPO under `sigmoid`; also for "
        "`robust` and `exo_pair`.",
    )
    f_divergence_type: Divergence = Field(
        "reverse_kl",
        description="Divergence from the reference that is penalised (Wang et al. 2023).",
    )
    f_alpha_divergence_coef: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of `alpha_divergence`: 0 is forward KL, 1 reverse KL (1 − α of the paper).",
    )
    ld_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the tokens beyond the shorter response's length (LD-DPO), in the "
        "rewards that are logged too; off when absent.",
    )
    discopop_tau: float = Field(0.05, gt=0, description="Temperature of the `discopop` loss.")
    use_weighting: bool = Field(
        False,
        description="Weight pairs by how likely both responses are for the policy as it is now "
        "(WPO): what it could have said itself counts most.",
    )

    @model_validator(mode="after")
    def _one_weight_a_loss(self) -> DpoSettings:
        count = len(self.loss_type) if isinstance(self.loss_type, list) else 1
        if count == 0:
            raise ValueError("`loss_type` is an empty list. Name at least one loss.")
        if self.loss_weights is not None and len(self.loss_weights) != count:
            raise ValueError(
                f"`loss_weights` has {len(self.loss_weights)} weights for {count} losses. "
                "Give one weight for each loss in `loss_type`."
            )
        if len(self.losses) != count:
            raise ValueError("`loss_type` names a loss twice. Give it once, with its weight.")
        return self

    @model_validator(mode="after")
    def _weights_of_something_to_learn(self) -> DpoSettings:
        weights = self.loss_weights or [1.0]
        if min(weights) < 0:
            raise ValueError(
                f"`loss_weights` holds {min(weights):g}, and a loss of negative weight is learned "
                f"the wrong way round. Give weights of at least 0."
            )
        if max(weights) == 0:
            raise ValueError(
                "`loss_weights` are all 0, so nothing would be learned. Give a loss a weight "
                "above 0."
            )
        return self

    @model_validator(mode="after")
    def _what_fits_together(self) -> DpoSettings:
        if self.f_divergence_type != "reverse_kl":
            wrong = sorted(set(self.losses) - DIFFERENCES)
            if wrong:
                raise ValueError(
                    f"`f_divergence_type={self.f_divergence_type}` needs losses on the difference "
                    f"of the two rewards, and {wrong[0]} reads each by itself: a term of the "
                    f"prompt would stay. Use {', '.join(sorted(DIFFERENCES))}, or reverse_kl."
                )
        if self.use_weighting and self.losses.keys() & SORTED:
            raise ValueError(
                "`use_weighting` weighs pairs, and `aot` takes them apart. Leave one of them out."
            )
        if "aot" in self.losses and self.ld_alpha is not None:
            raise ValueError("`loss_type=aot` compares whole responses. Leave `ld_alpha` out.")
        if self.label_smoothing and not self.losses.keys() & SMOOTHED:
            raise ValueError(
                f"`label_smoothing` is read by none of the losses in `loss_type`. Use one of "
                f"{', '.join(sorted(SMOOTHED))}, or leave it out."
            )
        if self.f_divergence_type != "alpha_divergence" and self.changed("f_alpha_divergence_coef"):
            raise ValueError(
                "`f_alpha_divergence_coef` is read by `f_divergence_type=alpha_divergence` only. "
                "Set that too, or leave it out."
            )
        if "discopop" not in self.losses and self.changed("discopop_tau"):
            raise ValueError(
                "`discopop_tau` is read by `loss_type=discopop` only. Set that too, or leave it "
                "out."
            )
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError(
                "`loss_type=exo_pair` is infinite for labels that are certain. Set "
                "`label_smoothing`; its authors advise 0.001."
            )
        if "robust" in self.losses and self.label_smoothing == 0:
            raise ValueError(
                "`loss_type=robust` is plain DPO for labels that are certain. Set "
                "`label_smoothing` to the share of labels that are flipped, or use sigmoid."
            )
        return self

    @property
    def losses(self) -> dict[PairLoss, float]:
        """The losses with their weights."""
        names: list[PairLoss] = (
            self.loss_type if isinstance(self.loss_type, list) else [self.loss_type]
        )
        return dict(zip(names, self.loss_weights or [1.0] * len(names), strict=True))


class IpoSettings(ReferenceSettings):
    """Identity preference optimisation (Azar et al. 2023)."""

    beta: float = Field(
        0.1, gt=0, description="τ of the paper: the margin that is aimed at is 1/(2·beta)."
    )
    average_log_probs: bool = Field(
        True,
        description="Log-ratios a token, as the authors advise; false sums them, as eq. 17 does.",
    )


class KtoSettings(ReferenceSettings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on single responses with a label.

    Comparisons and rankings serve too: a chosen response is desirable and a rejected one is not;
    of a ranking those are that beat more responses than beat them.
    """

    beta: float = Field(0.1, gt=0, description="Strength of the KL penalty to the reference.")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto",
        description="Gains and losses against the KL from the reference, or against 0 (APO-zero).",
    )
    desirable_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of a desirable response; by default both kinds weigh the same in all, "
        "the rarer one's responses more than 1 each.",
    )
    undesirable_weight: float | None = Field(
        None, ge=0, description="Weight of an undesirable response; by default as above."
    )
    desirable_from: float = Field(
        0.5, description="Score from which on a rated response is desirable; a thumbs-up is 1."
    )


class OrpoSettings(TrainSettings):
    """Odds-ratio preference optimisation (Hong et al. 2024): no reference, no SFT before it."""

    learning_rate: float = peak_learning_rate(8e-6)
    beta: float = Field(0.1, gt=0, description="Weight of the odds-ratio loss, λ in the paper.")


class SimpoSettings(TrainSettings):
    """Simple preference optimisation (Meng et al. 2024): no reference, mean log-probs."""

    learning_rate: float = peak_learning_rate(1e-6)
    beta: float = Field(2.0, gt=0, description="Scale of the mean log-probs.")
    gamma: float = Field(1.0, ge=0, description="Margin that the chosen should win by.")
