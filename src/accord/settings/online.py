"""Settings that the online methods share, such as PPO and GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Verbatim
from accord.settings.lora import peak_learning_rate
from accord.settings.rewards import Rewards, RewardSource, model_source
from accord.settings.sampling import SamplerSettings
from accord.settings.training import TrainSettings


class OnlineSettings(TrainSettings):
    """Settings of every method that learns from scores of the policy's own responses."""

    DEFAULT_BEST_METRIC: ClassVar[str | None] = None  # an evaluation has scores, and no loss

    learning_rate: float = peak_learning_rate(3e-6, of=" of the policy")
    adam_epsilon: float = Field(1e-5, gt=0, description="AdamW's epsilon.")
    reward_model: Annotated[str | None, InputPath] = Field(
        None,
        description="Reward model folder; its scores are normalised. Short for `rewards` with this "
        "one source.",
    )
    rewards: Rewards | None = Field(None, description="Sources whose weighted sum is the score.")
    ref_model: Annotated[str | None, InputPath] = Field(
        None,
        description="Reference model of the KL penalty; by default the starting model. None is "
        "loaded if no setting needs the KL: `beta=0`, without `max_kl` and `adaptive_kl_target`.",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Iterations; overrides `num_train_epochs` over the prompts."
    )
    save_steps: Annotated[int, NotIdentity] = Field(
        10, ge=1, description="Iterations between checkpoints."
    )
    per_device_train_batch_size: int = Field(
        64,
        ge=1,
        description="Episodes of one process in an iteration: responses, `num_generations` to each "
        "prompt.",
    )
    num_generations: int = Field(
        1, ge=1, description="Responses to each prompt; the prompt is computed once for all."
    )
    num_mini_batches: int = Field(
        1,
        ge=1,
        description="Optimiser steps in a pass over the episodes; prompts are split evenly, with "
        "all their responses.",
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Forward passes of one process in an optimiser step; episodes are distributed "
        "so that the passes have similar numbers of tokens.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Maximum tokens of a response.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature; divides the logits in all log-probs."
    )
    stop: list[Verbatim] = Field(
        default_factory=list,
        description="Texts that end a response; its last token is the one that completes a text.",
    )
    sampler: SamplerSettings = Field(
        SamplerSettings(),
        description="The sampling engine; vLLM gets the policy's weights before each iteration.",
    )
    beta: float = Field(
        0.05, ge=0, description="Coefficient of the KL penalty on each response token."
    )
    adaptive_kl_target: float | None = Field(
        None,
        gt=0,
        description="Adapt beta towards this mean KL per episode; fixed beta if absent.",
    )
    adaptive_kl_horizon: int = Field(
        10_000, ge=1, description="Horizon of the adaptive beta, in episodes."
    )
    max_kl: float | None = Field(
        None, gt=0, description="Limit of the mean KL per episode, in nats; see `max_kl_action`."
    )
    max_kl_action: Literal["stop", "rollback", "raise_beta"] = Field(
        "stop",
        description="What to do above `max_kl`: stop; roll back to the last weights and Adam "
        "moments below it and halve the learning rate from then on (a third time in a row stops); "
        "or multiply beta by 1.5 from then on.",
    )
    rollback_copy: Literal["off", "memory", "disk"] | None = Field(
        None,
        description="Where to store a snapshot of the weights and Adam moments at the start of an "
        "iteration, for a rollback (12 bytes per trained parameter): in CPU memory, or in a file "
        "that is read when needed. By default in memory with `lora` or `max_kl_action=rollback`, "
        "else off: then a loss that is not finite can be skipped only before an iteration's first "
        "step.",
    )
    cliprange: float = Field(0.2, gt=0, description="Clip range of the policy ratio below 1.")
    cliprange_high: float | None = Field(
        None,
        gt=0,
        description="Clip range of the policy ratio above 1 (DAPO: 0.28); by default `cliprange`.",
    )
    loss_type: Literal["token", "sequence", "fixed"] = Field(
        "token",
        description="Units with equal weight in the mean of an optimiser step: every token; every "
        "response, with the mean of its tokens; or every response, with the sum of its tokens over "
        "`max_new_tokens` (Dr. GRPO).",
    )
    entropy_coef: float = Field(
        0.0, ge=0, description="Weight of the mean entropy, which is added to the objective."
    )
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="Subtracted from the score of a response that does not end."
    )
    missing_eos_score: float | None = Field(
        None,
        description="Score of every response that does not end; replaces its own score less "
        "`missing_eos_penalty`.",
    )
    overlong_buffer: Annotated[int, NotIdentity] = Field(
        0,
        ge=0,
        description="Tokens before `max_new_tokens` over which a response's score falls linearly, "
        "by 1 at the limit (DAPO's soft overlong punishment); 0 is off. `missing_eos_penalty` is "
        "subtracted as well; `missing_eos_score` replaces both.",
    )
    reward_clip: float | None = Field(
        10.0,
        gt=0,
        description="Each reward model's normalised score is clipped to ± this; the scores of "
        "other sources are not clipped.",
    )
    sampler_importance_cap: float = Field(
        2.0,
        ge=1,
        description="With another sampling engine: maximum of the weight π_old/π_sampler on the "
        "policy loss of each token.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """`overlong_buffer` unless it is off: a run without it is that of earlier versions."""
        added = {"overlong_buffer"} if values.get("overlong_buffer") else set()
        return super().conditional_identity(values) | added

    @property
    def sources(self) -> list[RewardSource]:
        """The sources of the score."""
        return self.rewards or [model_source(self.reward_model or "")]

    @property
    def epochs(self) -> int:
        """Passes over the episodes of an iteration."""
        return 1

    @property
    def prompts_per_iteration(self) -> int:
        """Prompts of one process in an iteration."""
        return self.per_device_train_batch_size // self.num_generations

    @property
    def needs_reference(self) -> bool:
        """Whether any setting needs the KL from the reference."""
        return self.beta > 0 or self.max_kl is not None or self.adaptive_kl_target is not None

    @property
    def snapshot_storage(self) -> Literal["off", "memory", "disk"]:
        """`rollback_copy`, or its default."""
        if self.rollback_copy is not None:
            return self.rollback_copy
        return "memory" if self.lora is not None or self.rolls_back else "off"

    @property
    def rolls_back(self) -> bool:
        return self.max_kl is not None and self.max_kl_action == "rollback"

    @property
    def reads_responses(self) -> bool:
        """Whether any data set of the method contains responses."""
        return False

    @model_validator(mode="after")
    def _check_sources(self) -> OnlineSettings:
        if self.reward_model is None and self.rewards is None:
            raise ValueError("nothing scores the answers. Set `reward_model` or `rewards`.")
        if self.reward_model is not None and self.rewards is not None:
            raise ValueError("`reward_model` and `rewards` both say what scores. Keep one of them.")
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> OnlineSettings:
        if self.per_device_train_batch_size % self.num_generations:
            raise ValueError(
                f"`per_device_train_batch_size` counts responses: "
                f"{self.per_device_train_batch_size} can't be divided among prompts with "
                f"{self.num_generations} each. Make it a multiple of `num_generations`."
            )
        if self.max_kl_action != "stop" and self.max_kl is None:
            raise ValueError("`max_kl_action` does nothing without `max_kl`. Set that too.")
        if self.rolls_back and self.rollback_copy == "off":
            raise ValueError(
                "`max_kl_action=rollback` needs a snapshot of the weights. Set `rollback_copy` to "
                "memory or disk, or leave it out."
            )
        if self.adaptive_kl_target is not None and not self.beta:
            raise ValueError("`adaptive_kl_target` can't adapt a beta of 0. Set `beta`.")
        if self.adaptive_kl_target is None and self.changed("adaptive_kl_horizon"):
            raise ValueError(
                "`adaptive_kl_horizon` does nothing without `adaptive_kl_target`. Set that too."
            )
        if self.num_mini_batches > self.prompts_per_iteration:
            raise ValueError(
                f"{self.prompts_per_iteration} prompts in an iteration can't be split into "
                f"`num_mini_batches={self.num_mini_batches}`. Lower it."
            )
        if self.max_kl_action == "raise_beta" and not self.beta:
            raise ValueError("`max_kl_action=raise_beta` can't raise a beta of 0. Set `beta`.")
        if self.missing_eos_score is not None and self.changed("missing_eos_penalty"):
            raise ValueError(
                "`missing_eos_score` replaces the score that `missing_eos_penalty` is subtracted "
                "from. Set one of them."
            )
        if self.overlong_buffer > self.max_new_tokens:
            raise ValueError(
                f"`overlong_buffer={self.overlong_buffer}` is the end of `max_new_tokens="
                f"{self.max_new_tokens}`, and can't be longer. Lower it."
            )
        return self

    @model_validator(mode="after")
    def _check_effects(self) -> OnlineSettings:
        if self.ref_model is not None and not self.needs_reference:
            raise ValueError(
                "`ref_model` does nothing if no setting needs the KL: `beta=0`, without `max_kl`. "
                "Set one of them, or leave it out."
            )
        if not self.reads_responses and self.changed("long_responses"):
            raise ValueError(
                "`long_responses` does nothing here: the policy samples its own responses, of at "
                "most `max_new_tokens` tokens. Leave it out."
            )
        if self.sampler.kind == "local" and self.changed("sampler_importance_cap"):
            raise ValueError(
                "`sampler_importance_cap` limits the weights of another engine's samples, and with "
                "`sampler.kind=local` the policy itself samples. Leave it out."
            )
        return self
