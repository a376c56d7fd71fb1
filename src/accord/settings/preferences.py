"""Settings of the methods that learn from preferences without a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings
from accord.settings.lora import peak_learning_rate
from accord.settings.training import TrainSettings

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
MARGIN_LOSSES = frozenset({"sigmoid", "hinge", "robust", "exo_pair", "discopop", "sft"})
"""Losses that depend only on the difference of a pair's rewards."""

SMOOTHED_LOSSES = frozenset({"sigmoid", "robust", "exo_pair"})
"""Losses that read `label_smoothing`."""

SORTED_LOSSES = frozenset({"aot", "aot_unpaired"})
"""Losses that compare sorted responses, regardless of the pair that a response belongs to."""

WHOLE_PASS_LOSSES = SORTED_LOSSES | {"bco_pair"}
"""Losses that couple all pairs of a forward pass, so that its size matters."""

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


class ReferenceSettings(TrainSettings):
    """Settings of every method with a reference model."""

    learning_rate: float = peak_learning_rate(1e-6)
    ref_model: Annotated[str | None, InputPath] = Field(
        None, description="Reference model; by default the model that training starts from."
    )
    precompute_ref_log_probs: Annotated[bool | None, NotIdentity] = Field(
        None,
        description=(
            "Compute the reference's log-probs once, before training, and cache them for later "
            "runs; by default true, except with LoRA and a single epoch, where the base without "
            "its adapters computes them in each step."
        ),
    )

    @model_validator(mode="after")
    def _check_precompute(self) -> Self:
        if self.precompute_ref_log_probs is False and self.lora is None:
            raise ValueError(
                "`precompute_ref_log_probs=false` needs `lora`: full fine-tuning changes the "
                "starting model in the first step. Leave it out."
            )
        return self


class DpoSettings(ReferenceSettings):
    """Learns from comparisons or rankings directly, without a reward model.

    Direct preference optimisation (Rafailov et al. 2023) and its variants.
    """

    beta: float = Field(0.1, gt=0, description="Strength of the KL penalty to the reference.")
    loss_type: PairLoss | list[PairLoss] = Field(
        "sigmoid", description="Loss on a pair, or several, summed with `loss_weights`."
    )
    loss_weights: list[float] | None = Field(
        None,
        description="Weight of each loss in `loss_type`: at least 0, and not all 0; by default 1 "
        "each.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Probability that a preference is flipped: cDPO with `sigmoid`; also for "
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
        description="Parameter of `alpha_divergence`: 0 is forward KL, 1 reverse KL (1 − α in the "
        "paper).",
    )
    ld_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the tokens beyond the shorter response's length (LD-DPO), in the "
        "logged rewards too; off if absent.",
    )
    discopop_tau: float = Field(0.05, gt=0, description="Temperature of the `discopop` loss.")
    use_weighting: bool = Field(
        False,
        description="Weight pairs by the likelihood of both responses under the current policy "
        "(WPO), so that pairs near its own distribution count most.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """How a step is split into passes matters to losses that couple all pairs of a pass."""
        losses = values.get("loss_type") or []
        names = {losses} if isinstance(losses, str) else set(losses)
        split = values.get("max_tokens_per_forward") is not None
        added = {"max_tokens_per_forward"} if split and names & WHOLE_PASS_LOSSES else set()
        return super().conditional_identity(values) | added

    @model_validator(mode="after")
    def _check_number_of_weights(self) -> DpoSettings:
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
    def _check_weights(self) -> DpoSettings:
        weights = self.loss_weights or [1.0]
        if min(weights) < 0:
            raise ValueError(
                f"`loss_weights` holds {min(weights):g}, and a negative weight would maximise the "
                f"loss. Give weights of at least 0."
            )
        if max(weights) == 0:
            raise ValueError(
                "`loss_weights` are all 0, so nothing would be learned. Give a loss a weight "
                "above 0."
            )
        return self

    @model_validator(mode="after")
    def _check_losses(self) -> DpoSettings:
        if self.f_divergence_type != "reverse_kl":
            wrong = sorted(set(self.losses) - MARGIN_LOSSES)
            if wrong:
                raise ValueError(
                    f"`f_divergence_type={self.f_divergence_type}` needs losses on the difference "
                    f"of the two rewards, and {wrong[0]} reads each by itself: a term that depends "
                    f"on the prompt would not cancel. Use {', '.join(sorted(MARGIN_LOSSES))}, or "
                    f"reverse_kl."
                )
        if self.use_weighting and self.losses.keys() & SORTED_LOSSES:
            raise ValueError(
                "`use_weighting` weighs pairs, and `aot` takes them apart. Leave one of them out."
            )
        if "aot" in self.losses and self.ld_alpha is not None:
            raise ValueError("`loss_type=aot` compares whole responses. Leave `ld_alpha` out.")
        if self.label_smoothing and not self.losses.keys() & SMOOTHED_LOSSES:
            raise ValueError(
                f"`label_smoothing` is read by none of the losses in `loss_type`. Use one of "
                f"{', '.join(sorted(SMOOTHED_LOSSES))}, or leave it out."
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
                "`loss_type=exo_pair` is infinite for labels without noise. Set "
                "`label_smoothing`; its authors recommend 0.001."
            )
        if "robust" in self.losses and self.label_smoothing == 0:
            raise ValueError(
                "`loss_type=robust` is plain DPO for labels without noise. Set "
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
    """Learns like DPO, but towards a margin of fixed size, which overfits less.

    Identity preference optimisation (Azar et al. 2023).
    """

    beta: float = Field(0.1, gt=0, description="τ in the paper: the target margin is 1/(2·beta).")
    average_log_probs: bool = Field(
        True,
        description="Average log-ratios over tokens, as the authors recommend; false sums them, as "
        "in eq. 17.",
    )


class KtoSettings(ReferenceSettings):
    """Learns from single responses with a label, or from comparisons or rankings.

    Kahneman-Tversky optimisation (Ethayarajh et al. 2024). Comparisons and rankings are split into
    single responses: a chosen response is desirable and a rejected one is not; in a ranking, a
    response is desirable if it beats more responses than beat it.
    """

    beta: float = Field(0.1, gt=0, description="Strength of the KL penalty to the reference.")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto",
        description="Reference point of gains and losses: the KL from the reference, or 0 "
        "(APO-zero).",
    )
    desirable_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of a desirable response; by default the total weights of desirable and "
        "undesirable responses are equal, and the rarer kind's weight is above 1.",
    )
    undesirable_weight: float | None = Field(
        None, ge=0, description="Weight of an undesirable response; by default as above."
    )
    desirable_from: float = Field(
        0.5, description="Lowest score of a desirable response; a thumbs-up is 1."
    )


class OrpoSettings(TrainSettings):
    """Learns from comparisons or rankings and imitates the chosen, without a reference model.

    Odds-ratio preference optimisation (Hong et al. 2024); no SFT is needed before it.
    """

    learning_rate: float = peak_learning_rate(8e-6)
    beta: float = Field(0.1, gt=0, description="Weight of the odds-ratio loss; λ in the paper.")
    nll_on: Annotated[Literal["response", "prompt_and_response"], NotIdentity] = Field(
        "response",
        description="Tokens whose likelihood the loss includes: those of the chosen response, "
        "averaged over each response; or, as in the authors' code and TRL, those of the prompt "
        "too, averaged over all tokens of a step.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """`nll_on` unless it is the default: a run without it is that of earlier versions."""
        added = {"nll_on"} if values.get("nll_on", "response") != "response" else set()
        return super().conditional_identity(values) | added


class SimpoSettings(TrainSettings):
    """Learns from comparisons or rankings by mean log-probs, without a reference model.

    Simple preference optimisation (Meng et al. 2024).
    """

    learning_rate: float = peak_learning_rate(1e-6)
    beta: float = Field(2.0, gt=0, description="Scale of the mean log-probs.")
    gamma: float = Field(1.0, ge=0, description="Target margin of the chosen response.")


PREFERENCE_METHODS: dict[str, type[Settings]] = {
    "dpo": DpoSettings,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
}
"""The methods of this module by name, as in `accord train NAME`."""
