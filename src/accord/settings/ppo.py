"""Settings of PPO and, without a critic, REINFORCE++."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, Settings, UnlessDefault
from accord.settings.lora import peak_learning_rate
from accord.settings.online import OnlineSettings


class PpoSettings(OnlineSettings):
    """Learns from a reward model's scores of its own responses to prompts, with a critic.

    Proximal policy optimisation (Schulman et al. 2017) under a KL penalty.
    """

    reward_model: Annotated[str | None, InputPath] = Field(
        None,
        description="Reward model folder; its scores are normalised. Short for `rewards` with this "
        "one source. Under LoRA it shares the policy's base if it is an adapter on the same "
        "weights.",
    )
    critic: Literal["adapter", "separate", "shared"] | None = Field(
        None,
        description="The model that computes values: `adapter` (LoRA on the policy's base, "
        "initialised from the first reward model if that is an adapter on the same base), "
        "`separate` (a second model, initialised from the first reward model, of an ensemble from "
        "the first head) or `shared` (a new head on the policy's hidden states). By default "
        "`adapter` with LoRA, else `separate`.",
    )
    critic_model: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="Folder of a critic that another PPO run saved (its `critic/`), to start from; "
        "by default the critic starts from the reward model or the policy.",
    )
    critic_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of the critic; by default the policy's."
    )
    num_ppo_epochs: int = Field(4, ge=1, description="Passes over the episodes of an iteration.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount factor.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's λ (Schulman et al. 2016).")
    cliprange_value: float = Field(0.2, gt=0, description="Value clip around the old value.")
    vf_coef: float = Field(
        0.1,
        ge=0,
        description="Weight of the value loss; 0 loads no critic, and needs `gae_lambda=1`: "
        "REINFORCE, with the batch's mean as its baseline when advantages are whitened.",
    )
    whiten_advantages: bool = Field(
        True, description="Scale advantages to mean 0 and variance 1 over all response tokens."
    )
    whiten_rewards: bool = Field(
        False,
        description="Scale rewards to variance 1, without a shift of their mean, before the "
        "advantages are computed.",
    )
    critic_warmup_steps: int = Field(
        0, ge=0, description="First iterations, in which only the critic is trained."
    )
    ptx_dataset: Annotated[str | None, InputPath] = Field(
        None,
        description="Demonstrations or text for PPO-ptx (Ouyang et al. 2022, eq. 2): a "
        "language-modelling loss on these rows is added to the policy's loss.",
    )
    ptx_coef: float = Field(
        27.8, gt=0, description="Weight of that loss, a mean over the rows' tokens."
    )
    ptx_batch_size: int = Field(
        8,
        ge=1,
        description="Rows of `ptx_dataset` in an optimiser step, over all processes; the step's "
        "number determines which.",
    )

    @property
    def epochs(self) -> int:
        return self.num_ppo_epochs

    @property
    def reads_responses(self) -> bool:
        return self.ptx_dataset is not None

    @model_validator(mode="after")
    def _check_critic(self) -> PpoSettings:
        if self.critic == "adapter" and self.lora is None:
            raise ValueError(
                "`critic=adapter` is LoRA on the policy's base. Set `lora`, or use "
                "`critic=separate` or `critic=shared`."
            )
        if self.critic == "shared" and self.critic_model is not None:
            raise ValueError(
                "`critic=shared` is a head on this run's policy, and `critic_model` is a critic on "
                "weights of its own. Use `critic=separate`, or `critic=adapter` with `lora`."
            )
        if not self.vf_coef and self.gae_lambda != 1:
            raise ValueError(
                f"without a critic (`vf_coef=0`) there are no values to bootstrap from, and "
                f"`gae_lambda={self.gae_lambda}` would discount later rewards. Set `gae_lambda=1`."
            )
        if not self.vf_coef and (
            key := self.changed(
                "critic",
                "critic_model",
                "critic_warmup_steps",
                "critic_learning_rate",
                "cliprange_value",
            )
        ):
            raise ValueError(
                f"`{key}` is a setting of the critic, and `vf_coef=0` loads none. Leave it out."
            )
        if self.ptx_dataset is None and self.changed("ptx_coef", "ptx_batch_size"):
            raise ValueError(
                "`ptx_coef` and `ptx_batch_size` do nothing without `ptx_dataset`. Set that too."
            )
        return self


class ReinforcePlusPlusSettings(OnlineSettings):
    """Learns like PPO without a critic, from advantages normalised over the whole batch.

    REINFORCE++ (Hu et al. 2025): a token's advantage is the score less the KL penalty of this token
    and those after it, at mean 0 and variance 1 over all response tokens of an iteration. One
    response to each prompt is enough.
    """

    learning_rate: float = peak_learning_rate(1e-6)
    num_iterations: int = Field(1, ge=1, description="Passes over an iteration's episodes.")

    @property
    def epochs(self) -> int:
        return self.num_iterations


PPO_METHODS: dict[str, type[Settings]] = {
    "ppo": PpoSettings,
    "reinforce_plus_plus": ReinforcePlusPlusSettings,
}
"""The methods of this module by name, as in `accord train NAME`."""
