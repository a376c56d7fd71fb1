"""Settings of the training methods: what all share, and what each adds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accord.settings.base import Settings


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) instead of full tuning."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale; the update is multiplied by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the linear layers to adapt, or `all-linear`."
    )


class TrainSettings(Settings):
    """What every training stage takes."""

    model: str = Field(description="Model to start from: a folder, or a hub name.")
    dataset: str = Field(
        description="Rows to learn from: a file, a folder, a hub name, or a preference store (.db)."
    )
    output_dir: str = Field(description="Folder for the model, checkpoints, metrics and manifest.")
    eval_dataset: str | None = Field(None, description="Held-out rows, read like `dataset`.")
    eval_steps: int | None = Field(
        None, ge=1, description="Evaluate on the held-out rows every so many steps, and at the end."
    )
    max_steps: int | None = Field(
        None, ge=1, description="Optimiser steps; overrides `num_train_epochs`."
    )
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the rows.")
    per_device_train_batch_size: int = Field(
        8, ge=1, description="Examples in one forward pass; a pair or a ranking counts one."
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Forward passes added up before one optimiser step."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="Shape of the learning rate after warm-up; both decays end at 0."
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="Share of the steps over which the learning rate rises from 0."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second-moment decay.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients are scaled down to this norm; 0 turns clipping off."
    )
    max_length: int = Field(
        1024, ge=2, description="Tokens a prompt and one response may have together."
    )
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Tokens a prompt may have; a longer one is handled by `long_prompts`.",
    )
    long_prompts: Literal["drop", "keep_end"] = Field(
        "drop",
        description="A prompt over the limit: drop the row, or keep the prompt's last tokens.",
    )
    long_responses: Literal["cut", "drop"] = Field(
        "cut",
        description="A response over the limit: cut it (it loses its end), or drop the row.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 computes in bfloat16 and keeps the weights in float32."
    )
    lora: LoraSettings | None = Field(None, description="Train adapters only; off when absent.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    save_steps: int = Field(200, ge=1, description="A checkpoint every so many steps.")
    save_total_limit: int = Field(1, ge=1, description="Checkpoints kept; the oldest go first.")
    logging_steps: int = Field(1, ge=1, description="A row in metrics.jsonl every so many steps.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of row order, new heads, sampling.")
    resume: bool = Field(
        True, description="Go on from the last checkpoint in `output_dir`; false refuses to."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with a hub model. Off unless you trust it."
    )


class SftSettings(TrainSettings):
    """Supervised fine-tuning: cross-entropy of the responses, each token weighted the same."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class RewardSettings(TrainSettings):
    """Bradley-Terry reward model on pairs, or on rankings of K."""

    ranking_loss: Literal["pairs", "plackett_luce"] = Field(
        "pairs",
        description="A ranking of K as all its pairs, averaged, or by Plackett-Luce.",
    )
    center_rewards_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean squared sum of a pair's scores, which centres scores on 0.",
    )
    reference_dataset: str | None = Field(
        None,
        description=(
            "Rows whose responses set the reward's mean and standard deviation; "
            "by default the training rows."
        ),
    )
    reference_rows: int = Field(
        512, ge=2, description="Rows of it that are scored for the mean and standard deviation."
    )


class DpoSettings(TrainSettings):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    learning_rate: float = Field(1e-6, gt=0, description="Peak learning rate.")
    beta: float = Field(0.1, gt=0, description="Strength of the KL penalty to the reference.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Probability that a preference is flipped (cDPO)."
    )
    ref_model: str | None = Field(
        None, description="Reference model; by default the model that training starts from."
    )


class PpoSettings(TrainSettings):
    """Reinforcement learning from a reward model by PPO under a KL penalty."""

    learning_rate: float = Field(3e-6, gt=0, description="Peak learning rate of the policy.")
    adam_epsilon: float = Field(1e-5, gt=0, description="AdamW's epsilon.")
    reward_model: str = Field(description="Reward model folder; its scores are normalised.")
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
