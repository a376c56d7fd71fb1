"""Settings of PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from accord.settings.online import OnlineSettings


class PpoSettings(OnlineSettings):
    """Reinforcement learning from a reward model by PPO under a KL penalty."""

    reward_model: str | None = Field(
        None,
        description="Reward model folder; its scores are normalised. Short for `rewards` with this "
        "one source. Under LoRA it shares the policy's base where it is an adapter on the same "
        "weights.",
    )
    critic: Literal["adapter", "separate", "shared"] | None = Field(
        None,
        description="Where values come from: `adapter` (LoRA on the policy's base, starting as the "
        "first reward model where that is an adapter there too), `separate` (a model of its own, "
        "starting as the first reward model, of an ensemble from the first head) or `shared` (a "
        "new head on the policy's own hidden states). By default `adapter` with LoRA, else "
        "`separate`.",
    )
    critic_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of the critic; by default the policy's."
    )
    num_ppo_epochs: int = Field(4, ge=1, description="Passes over an iteration's episodes.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's λ (Schulman et al. 2016).")
    cliprange_value: float = Field(0.2, gt=0, description="Value clip around the old value.")
    vf_coef: float = Field(
        0.1,
        ge=0,
        description="Weight of the value loss; 0 loads no critic, and needs `gae_lambda=1`: "
        "REINFORCE, with the batch's mean as its baseline where advantages are whitened.",
    )
    whiten_advantages: bool = Field(
        True, description="Advantages to mean 0 and variance 1 over all response tokens."
    )
    whiten_rewards: bool = Field(
        False, description="Rewards to variance 1, their mean kept, before the advantages."
    )
    critic_warmup_steps: int = Field(
        0, ge=0, description="Iterations in which the critic learns and the policy stands still."
    )
    ptx_dataset: str | None = Field(
        None,
        description="Demonstrations or text for PPO-ptx (Ouyang et al. 2022, eq. 2): their "
        "likelihood is held up while the policy learns from scores.",
    )
    ptx_coef: float = Field(
        27.8, gt=0, description="Weight of that likelihood's mean over its tokens."
    )
    ptx_batch_size: int = Field(
        8,
        ge=1,
        description="Rows of `ptx_dataset` in an optimiser step, of all processes, drawn by its "
        "number.",
    )

    @property
    def epochs(self) -> int:
        return self.num_ppo_epochs

    @model_validator(mode="after")
    def _ppo_settings_that_fit(self) -> PpoSettings:
        if self.critic == "adapter" and self.lora is None:
            raise ValueError(
                "`critic=adapter` is LoRA on the policy's base. Set `lora`, or use "
                "`critic=separate` or `critic=shared`."
            )
        if not self.vf_coef and self.gae_lambda != 1:
            raise ValueError(
                f"without a critic (`vf_coef=0`) nothing stands in for what is still to come, and "
                f"`gae_lambda={self.gae_lambda}` would fade it out. Set `gae_lambda=1`."
            )
        if not self.vf_coef and (
            key := self.changed(
                "critic", "critic_warmup_steps", "critic_learning_rate", "cliprange_value"
            )
        ):
            raise ValueError(f"`{key}` is of a critic, and `vf_coef=0` loads none. Leave it out.")
        if self.ptx_dataset is None and self.changed("ptx_coef", "ptx_batch_size"):
            raise ValueError(
                "`ptx_coef` and `ptx_batch_size` do nothing without `ptx_dataset`. Set that too."
            )
        return self
