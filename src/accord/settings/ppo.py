"""Settings of PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from accord.settings.training import TrainSettings


class PpoSettings(TrainSettings):
    """Reinforcement learning from a reward model by PPO under a KL penalty."""

    learning_rate: float = Field(3e-6, gt=0, description="Peak learning rate of the policy.")
    adam_epsilon: float = Field(1e-5, gt=0, description="AdamW's epsilon.")
    reward_model: str = Field(
        description="Reward model folder; its scores are normalised. Under LoRA it shares the "
        "policy's base where it is an adapter on the same weights."
    )
    critic: Literal["adapter", "separate", "shared"] | None = Field(
        None,
        description="Where values come from: `adapter` (LoRA on the policy's base, starting as the "
        "reward model where that is an adapter there too), `separate` (a model of its own, "
        "starting as the reward model, of an ensemble from the first head) or `shared` (a new head "
        "on the policy's own hidden states). By default `adapter` with LoRA, else `separate`.",
    )
    ref_model: str | None = Field(
        None, description="Reference of the KL penalty; by default the starting model."
    )
    critic_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of the critic; by default the policy's."
    )
    max_steps: int | None = Field(
        None, ge=1, description="PPO iterations; overrides `num_train_epochs` over the prompts."
    )
    per_device_train_batch_size: int = Field(
        64, ge=1, description="Episodes (prompts answered) in one iteration."
    )
    num_ppo_epochs: int = Field(4, ge=1, description="Passes over an iteration's episodes.")
    num_mini_batches: int = Field(
        1, ge=1, description="Optimiser steps in a pass; the episodes are split evenly."
    )
    max_new_tokens: int = Field(128, ge=1, description="Tokens a response may have.")
    temperature: float = Field(1.0, gt=0, description="Divides the logits in every log-prob.")
    beta: float = Field(0.05, ge=0, description="KL penalty on each response token.")
    adaptive_kl_target: float | None = Field(
        None, gt=0, description="Adapt beta towards this KL an episode; fixed beta when absent."
    )
    adaptive_kl_horizon: int = Field(
        10_000, ge=1, description="Episodes over which the adaptive beta reacts."
    )
    max_kl: float | None = Field(
        None, gt=0, description="Stop when the mean KL an episode passes this many nats."
    )
    gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's λ (Schulman et al. 2016).")
    cliprange: float = Field(0.2, gt=0, description="Policy ratio clip, below 1.")
    cliprange_high: float | None = Field(
        None, gt=0, description="Policy ratio clip above 1; by default the same."
    )
    cliprange_value: float = Field(0.2, gt=0, description="Value clip around the old value.")
    vf_coef: float = Field(0.1, ge=0, description="Weight of the value loss.")
    whiten_advantages: bool = Field(
        True, description="Advantages to mean 0 and variance 1 over all response tokens."
    )
    whiten_rewards: bool = Field(
        False, description="Rewards to variance 1, their mean kept, before the advantages."
    )
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="Taken off the score of a response that does not end."
    )
    reward_clip: float | None = Field(
        10.0, gt=0, description="Normalised scores are clipped to ± this."
    )
    critic_warmup_steps: int = Field(
        0, ge=0, description="Iterations in which the critic learns and the policy stands still."
    )

    @model_validator(mode="after")
    def _a_critic_that_there_can_be(self) -> PpoSettings:
        if self.critic == "adapter" and self.lora is None:
            raise ValueError(
                "`critic=adapter` is LoRA on the policy's base, and `lora` is off. Set `lora`, or "
                "take `critic=separate` or `critic=shared`."
            )
        return self
