"""Settings of the training methods: what all share, and what each adds."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from accord.settings.base import Settings

LORA_RATE = 10
"""Times the learning rate of full tuning, by default."""


def peak_learning_rate(default: float, of: str = "") -> Any:
    """The field of a method whose full tuning has this rate by default."""
    told = f"Peak learning rate{of}; the default is ten times this with `lora`."
    return Field(default, gt=0, description=told)


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) instead of full tuning."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale; the update is multiplied by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the linear layers to adapt, or `all-linear`."
    )
    continue_adapter: bool = Field(
        False,
        description="Where `model` is an adapter, that one goes on learning on the same base; by "
        "default it is merged into the base, and new ones are put on. `r`, `alpha` and "
        "`target_modules` are then the adapter's; values other than the defaults are refused where "
        "they are not its own.",
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
    max_tokens_per_forward: int | None = Field(
        None,
        ge=1,
        description="Tokens in one forward pass: a step is split into more passes where one would "
        "have more. Memory grows with it; what is learned does not change, but for losses that "
        "look at all pairs of a pass.",
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Forward passes added up before one optimiser step."
    )
    learning_rate: float = peak_learning_rate(1e-5)
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
        1024,
        ge=2,
        description="Tokens a prompt and one response may have together; fewer where the model has "
        "fewer positions.",
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
    logging_steps: int = Field(
        1,
        ge=1,
        description="A row in metrics.jsonl every so many steps, and after each evaluation.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of row order, new heads, sampling.")
    resume: bool = Field(
        True, description="Go on from the last checkpoint in `output_dir`; false refuses to."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with a hub model. Off unless you trust it."
    )

    @model_validator(mode="before")
    @classmethod
    def _faster_with_lora(cls, given: Any) -> Any:
        """Adapters start from nothing, and take a higher rate than all weights do."""
        if isinstance(given, dict) and given.get("lora") is not None:
            default = cls.model_fields["learning_rate"].default
            return {"learning_rate": float(f"{LORA_RATE * default:.6g}"), **given}
        return given

    @model_validator(mode="after")
    def _rows_to_evaluate_on(self) -> Self:
        if self.eval_steps is not None and self.eval_dataset is None:
            raise ValueError("`eval_steps` does nothing without `eval_dataset`. Set that too.")
        return self


class SftSettings(TrainSettings):
    """Supervised fine-tuning: cross-entropy of the responses, each token weighted the same."""

    learning_rate: float = peak_learning_rate(2e-5)
    loss_on: Literal["response", "assistant", "all"] = Field(
        "response",
        description="What is learned: the last answer, every turn of the assistant's with its "
        "end, or every token after the first; rows of plain text are learned whole in any case. "
        "The limits take what comes before for the prompt, and the rest for the response.",
    )

    @model_validator(mode="after")
    def _a_prompt_where_it_has_a_limit(self) -> SftSettings:
        if self.loss_on == "all" and self.max_prompt_length is not None:
            raise ValueError(
                "`max_prompt_length` limits nothing with `loss_on=all`, which takes prompt and "
                "response as one text. Leave it out, and set `max_length`."
            )
        return self


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
    length_regularisation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of what length alone explains of the preferences that is kept out of "
        "the score.",
    )
    length_slope: float | None = Field(
        None,
        description="Log-odds that a token more adds to winning; by default fitted to the "
        "training pairs where `length_regularisation` needs it.",
    )
    heads: int = Field(
        1, ge=1, description="Scalar heads on one backbone: an ensemble where more than one."
    )
    bootstrap: bool = Field(
        True, description="Each head of an ensemble learns from its own draw of the rows."
    )
    ensemble_penalty: float = Field(
        0.0,
        ge=0,
        description="What disagreement costs: the score is the heads' mean less this times their "
        "standard deviation.",
    )
    reference_dataset: str | None = Field(
        None,
        description=(
            "Rows whose responses set the reward's mean and standard deviation, read as `sft` "
            "reads them: of pairs the chosen ones; by default all of the training rows' responses."
        ),
    )
    reference_rows: int = Field(
        512, ge=2, description="Rows of it that are scored for the mean and standard deviation."
    )

    @model_validator(mode="after")
    def _what_fits_together(self) -> RewardSettings:
        if self.ranking_loss == "plackett_luce" and self.center_rewards_coefficient:
            raise ValueError(
                "`center_rewards_coefficient` centres pairs, and `ranking_loss=plackett_luce` has "
                "none. Use `ranking_loss=pairs`, or leave it out: scores are centred at the end."
            )
        if self.length_slope is not None and not self.length_regularisation:
            raise ValueError(
                "`length_slope` does nothing without `length_regularisation`. Set that too."
            )
        if self.ensemble_penalty and self.heads == 1:
            raise ValueError("`ensemble_penalty` needs heads that can disagree. Set `heads`.")
        if not self.bootstrap and self.heads == 1:
            raise ValueError(
                "`bootstrap=false` is of an ensemble, and one head sees all rows in any case. Set "
                "`heads`, or leave it out."
            )
        return self
