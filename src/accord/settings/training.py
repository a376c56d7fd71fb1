"""Settings of supervised training, and those that all training methods share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings

LORA_RATE_FACTOR = 10
"""The default learning rate with LoRA, in multiples of that of full fine-tuning."""


def peak_learning_rate(default: float, of: str = "") -> Any:
    """The `learning_rate` field of a method whose default is `default` in full fine-tuning."""
    description = f"Peak learning rate{of}; the default is ten times this with `lora`."
    return Field(default, gt=0, description=description)


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) instead of full fine-tuning."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale; the update is multiplied by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the linear layers to adapt, or `all-linear`."
    )
    continue_adapter: bool = Field(
        False,
        description="Where `model` is an adapter, continue to train this adapter on the same base; "
        "by default it is merged into the base, and a new adapter is added. `r`, `alpha` and "
        "`target_modules` are then the adapter's; other values than these and the defaults are "
        "refused.",
    )


class TrainSettings(Settings):
    """Settings of every training stage."""

    model: Annotated[str, InputPath] = Field(
        description="Model to start from: a folder, or a hub name."
    )
    dataset: Annotated[str, InputPath] = Field(
        description="Rows to learn from: a file, a folder, a hub name, or a preference store (.db)."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for the model, checkpoints, metrics and manifest."
    )
    eval_dataset: Annotated[str | None, InputPath] = Field(
        None, description="Held-out rows, read like `dataset`."
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between evaluations on the held-out rows; the last step evaluates too.",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Optimiser steps; overrides `num_train_epochs`."
    )
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the rows.")
    per_device_train_batch_size: int = Field(
        8, ge=1, description="Examples in one forward pass; a pair or a ranking counts as one."
    )
    max_tokens_per_forward: Annotated[int | None, NotIdentity] = Field(
        None,
        ge=1,
        description="Maximum tokens in one forward pass: a step with larger passes is split into "
        "more. Memory grows with it; what is learned does not depend on it, except under losses "
        "that compare all pairs of a pass.",
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Forward passes whose gradients are accumulated for one optimiser step.",
    )
    learning_rate: float = peak_learning_rate(1e-5)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="Shape of the learning rate after warm-up; both decays end at 0."
    )
    warmup_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the steps in which the learning rate rises linearly from 0.",
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second-moment decay.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Norm to which larger gradients are clipped; 0 turns clipping off."
    )
    max_length: int = Field(
        1024,
        ge=2,
        description="Maximum tokens of a prompt with one response; fewer if the model has fewer "
        "positions.",
    )
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens of a prompt; `long_prompts` decides about longer ones.",
    )
    long_prompts: Literal["drop", "keep_end"] = Field(
        "drop",
        description="Drop the row of a prompt over the limit, or keep the prompt's last tokens.",
    )
    long_responses: Literal["cut", "drop"] = Field(
        "drop",
        description="Drop the row of a response over the limit, or truncate it: it then has no "
        "EOS, which teaches not to stop.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 computes in bfloat16 with weights in float32."
    )
    lora: LoraSettings | None = Field(None, description="Train adapters only; off if absent.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    save_steps: Annotated[int, NotIdentity] = Field(
        200, ge=1, description="Steps between checkpoints."
    )
    save_total_limit: Annotated[int, NotIdentity] = Field(
        1, ge=1, description="Number of checkpoints to retain; the oldest are removed first."
    )
    logging_steps: Annotated[int, NotIdentity] = Field(
        1,
        ge=1,
        description="Steps between rows in metrics.jsonl; each evaluation adds a row too.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the row order, of new heads and of sampling."
    )
    resume: Annotated[bool, NotIdentity] = Field(
        True,
        description="Resume from the last checkpoint in `output_dir`; if false, a checkpoint there "
        "is an error.",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with a hub model; only for code you trust.",
    )

    @model_validator(mode="before")
    @classmethod
    def _raise_learning_rate_with_lora(cls, values: Any) -> Any:
        """Adapters start at zero, and need a higher rate than the weights of a trained model."""
        if isinstance(values, dict) and values.get("lora") is not None:
            default = cls.model_fields["learning_rate"].default
            return {"learning_rate": float(f"{LORA_RATE_FACTOR * default:.6g}"), **values}
        return values

    @model_validator(mode="after")
    def _check_eval_rows(self) -> Self:
        if self.eval_steps is not None and self.eval_dataset is None:
            raise ValueError("`eval_steps` does nothing without `eval_dataset`. Set that too.")
        return self


class SftSettings(TrainSettings):
    """Imitates demonstrations (rows with prompt and completion), conversations or plain text.

    Supervised fine-tuning: cross-entropy of the responses, with the same weight for each token.
    """

    learning_rate: float = peak_learning_rate(2e-5)
    loss_on: Literal["response", "assistant", "all"] = Field(
        "response",
        description="Tokens that the loss includes: the last answer, every turn of the assistant "
        "with its EOS, or every token after the first; all tokens of plain text are included in "
        "any case. For the length limits, the tokens before the first included one are the prompt "
        "and the rest is the response.",
    )

    @model_validator(mode="after")
    def _check_prompt_limit(self) -> SftSettings:
        if self.loss_on == "all" and self.max_prompt_length is not None:
            raise ValueError(
                "`max_prompt_length` limits nothing with `loss_on=all`, which takes prompt and "
                "response as one text. Leave it out, and set `max_length`."
            )
        return self


class RewardSettings(TrainSettings):
    """Learns to score responses from comparisons (prompt, chosen, rejected) or rankings.

    The Bradley-Terry model on pairs or on the pairs of rankings, or Plackett-Luce on rankings.
    """

    ranking_loss: Literal["pairs", "plackett_luce"] = Field(
        "pairs",
        description="Loss on a ranking of K: the mean over all its pairs, or Plackett-Luce.",
    )
    center_rewards_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean squared sum of a pair's scores, which centres scores at 0.",
    )
    length_regularisation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the effect of length on the preferences that is removed from the "
        "score.",
    )
    length_slope: float | None = Field(
        None,
        description="Change of the log-odds of winning for each additional token; by default "
        "fitted to the training pairs if `length_regularisation` needs it.",
    )
    heads: int = Field(
        1, ge=1, description="Scalar heads on one backbone; more than one are an ensemble."
    )
    bootstrap: bool = Field(
        True, description="Train each head of an ensemble on its own bootstrap sample of the rows."
    )
    ensemble_penalty: float = Field(
        0.0,
        ge=0,
        description="Penalty for disagreement: the score is the mean of the heads minus this times "
        "their standard deviation.",
    )
    reference_dataset: Annotated[str | None, InputPath] = Field(
        None,
        description=(
            "Rows whose responses determine the mean and standard deviation that normalise "
            "scores, read like the rows of `sft` (of a pair, the chosen response); by default all "
            "responses of the training rows."
        ),
    )
    reference_rows: int = Field(
        512, ge=2, description="Rows that are scored for this mean and standard deviation."
    )

    @model_validator(mode="after")
    def _check_loss_and_heads(self) -> RewardSettings:
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
            raise ValueError("`ensemble_penalty` needs an ensemble of several heads. Set `heads`.")
        if not self.bootstrap and self.heads == 1:
            raise ValueError(
                "`bootstrap=false` applies to an ensemble; a single head is trained on all rows in "
                "any case. Set `heads`, or leave it out."
            )
        return self


SUPERVISED_METHODS: dict[str, type[Settings]] = {"sft": SftSettings, "reward": RewardSettings}
"""The methods of this module by name, as in `accord train NAME`."""
