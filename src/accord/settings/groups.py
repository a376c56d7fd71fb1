"""Settings of the methods that compare several responses to one prompt: GRPO and RLOO."""

from __future__ import annotations

from pydantic import Field, model_validator

from accord.settings.online import OnlineSettings
from accord.settings.training import peak_learning_rate


class GroupSettings(OnlineSettings):
    """What GRPO and RLOO share: a group of responses is its own baseline, without a critic."""

    learning_rate: float = peak_learning_rate(1e-6)
    num_generations: int = Field(
        8, ge=2, description="Responses to each prompt; the prompt is computed once for all."
    )
    num_iterations: int = Field(1, ge=1, description="Passes over an iteration's episodes.")

    @property
    def epochs(self) -> int:
        return self.num_iterations


class GrpoSettings(GroupSettings):
    """GRPO: a response's advantage is its score within its group; the KL is a loss term."""

    beta: float = Field(0.04, ge=0, description="Weight of the KL loss on each response token.")
    scale_rewards: bool = Field(
        True,
        description="Divide advantages by the group's standard deviation; Dr. GRPO does not, as "
        "it favours prompts whose scores lie close together.",
    )
    use_bias_correction_kl: bool = Field(
        True,
        description="Weight the KL loss by the policy ratio, so that its gradient is that of the "
        "reverse KL; without, it is the forward KL's.",
    )

    @model_validator(mode="after")
    def _a_kl_to_correct(self) -> GrpoSettings:
        if not self.beta and self.changed("use_bias_correction_kl"):
            raise ValueError(
                "`use_bias_correction_kl` is of the KL loss, which `beta=0` turns off. Leave it "
                "out, or set `beta`."
            )
        return self


class RlooSettings(GroupSettings):
    """RLOO: a response's score, KL taken off, against the mean of the others in its group."""
