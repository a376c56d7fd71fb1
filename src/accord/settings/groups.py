"""Settings of the methods that compare several responses to one prompt, such as GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from accord.settings.base import NotIdentity, Settings
from accord.settings.lora import peak_learning_rate
from accord.settings.online import OnlineSettings


class GroupSettings(OnlineSettings):
    """Settings of methods where a group of responses to one prompt is its own baseline and no
    critic is needed."""

    learning_rate: float = peak_learning_rate(1e-6)
    num_generations: int = Field(
        8, ge=2, description="Responses to each prompt; the prompt is computed once for all."
    )
    num_iterations: int = Field(1, ge=1, description="Passes over the episodes of an iteration.")
    dynamic_sampling_max_rounds: Annotated[int, NotIdentity] = Field(
        0,
        ge=0,
        description="Prompts whose responses all score the same are replaced by the next ones, "
        "at most this many times in an iteration (DAPO's dynamic sampling); 0 is off.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """`dynamic_sampling_max_rounds` too, unless it is off."""
        rounds = values.get("dynamic_sampling_max_rounds")
        added = {"dynamic_sampling_max_rounds"} if rounds else set()
        return super().conditional_identity(values) | added

    @property
    def epochs(self) -> int:
        return self.num_iterations


class GrpoSettings(GroupSettings):
    """Learns from scores of several of its own responses to each prompt, without a critic.

    Group relative policy optimisation (Shao et al. 2024): a response's advantage is its score
    relative to its group; the KL penalty is a loss term.
    """

    beta: float = Field(0.04, ge=0, description="Weight of the KL loss on each response token.")
    scale_rewards: bool = Field(
        True,
        description="Divide advantages by the group's standard deviation. Dr. GRPO does not, since "
        "the division gives more weight to prompts whose scores differ little.",
    )
    use_bias_correction_kl: bool = Field(
        True,
        description="Weight the KL loss by the policy ratio, so that its gradient is that of the "
        "reverse KL; without the weight it is that of the forward KL.",
    )

    @model_validator(mode="after")
    def _check_kl_loss(self) -> GrpoSettings:
        if not self.beta and self.changed("use_bias_correction_kl"):
            raise ValueError(
                "`use_bias_correction_kl` corrects the KL loss, which `beta=0` turns off. Leave it "
                "out, or set `beta`."
            )
        return self


class RlooSettings(GroupSettings):
    """Learns like GRPO, with the KL in the reward and each response against the others' mean.

    REINFORCE leave-one-out (Ahmadian et al. 2024): a response's advantage is its score, less the KL
    penalty, minus the mean of the other responses in its group.
    """


class GspoSettings(GrpoSettings):
    """Learns like GRPO, with one probability ratio for each response, clipped as a whole.

    Group sequence policy optimisation (Zheng et al. 2025): the ratio is the geometric mean of the
    tokens' ratios. Where an iteration takes one step it is 1, and this is GRPO.
    """

    cliprange: float = Field(
        3e-4,
        gt=0,
        description="Clip below 1 of a response's ratio; a mean of many tokens' moves "
        "far less than each of them.",
    )
    cliprange_high: float | None = Field(
        4e-4, gt=0, description="Clip above 1 of a response's ratio; null is the same as below."
    )
    loss_type: Literal["token", "sequence", "fixed"] = Field(
        "sequence",
        description="What has the same weight in an optimiser step: every token; every response; "
        "or every response, by its tokens' sum over `max_new_tokens`.",
    )


class CispoSettings(GrpoSettings):
    """Learns like GRPO, with clipped ratios as weights, so that every token keeps a gradient.

    Clipped importance-sampling-weight policy optimisation (MiniMax-M1 2025). Where an iteration
    takes one step the weights are 1, and this is GRPO.
    """

    cliprange: float = Field(
        1.0,
        gt=0,
        description="How far below 1 a token's weight may go; 1 or more is no bound, as in the "
        "paper.",
    )
    cliprange_high: float | None = Field(
        4.0,
        gt=0,
        description="How far above 1 a token's weight may go: TRL's `epsilon_high` less 1. Null is "
        "the same as below.",
    )


GROUP_METHODS: dict[str, type[Settings]] = {
    "grpo": GrpoSettings,
    "rloo": RlooSettings,
    "gspo": GspoSettings,
    "cispo": CispoSettings,
}
"""The methods of this module by name, as in `accord train NAME`."""
