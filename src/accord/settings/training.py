"""Settings of supervised training, and those that all training methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from accord.settings import data, many_processes, memory
from accord.settings.base import InputPath, NotIdentity, Settings, UnlessDefault
from accord.settings.dialogue import DialogueText
from accord.settings.endings import BEST_KEYS, check_best, check_hub
from accord.settings.lora import LORA_RATE_FACTOR, LoraSettings, peak_learning_rate
from accord.settings.verdicts import Filter

Tracker = Literal["tensorboard", "wandb", "trackio"]


class TrainSettings(Settings):
    """Settings of every training stage."""

    DEFAULT_BEST_METRIC: ClassVar[str | None] = "loss"

    model: Annotated[str, InputPath] = Field(
        description="Model to start from: a folder, or a hub name."
    )
    dataset: Annotated[str, InputPath] = Field(
        description="Rows to learn from: a file, a folder, a hub name, or a preference store (.db)."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for the model, checkpoints, metrics and manifest."
    )
    eval_dataset: Annotated[str | dict[str, str] | None, InputPath] = Field(
        None,
        description="Held-out rows, read like `dataset`; several sets by name, such as "
        "`{helpful: a.jsonl, harmless: b.jsonl}`, have metrics of their own "
        "(`eval/helpful/loss`).",
    )
    columns: data.ColumnNames = None
    filter: Filter = None
    max_samples: data.MaxSamples = None
    max_eval_samples: data.MaxEvalSamples = None
    samples_from: data.SamplesFrom = "start"
    streaming: data.Streaming = False
    mixture: data.Mixture = None
    dialogue_text: DialogueText = "turns"
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between evaluations on held-out rows; the last step has one."
    )
    safety_dataset: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="Prompts, each with a `meta.kind`, whose likeliest answers are graded during "
        "training: `safety/harmful_compliance` and `safety/over_refusal` are logged.",
    )
    safety_steps: Annotated[int | None, UnlessDefault] = Field(
        None, ge=1, description="Steps between these gradings; the last step grades too."
    )
    early_stopping_patience: Annotated[int | None, NotIdentity] = Field(
        None,
        ge=1,
        description="Stop after this many evaluations in a row in which `metric_for_best_model` "
        "did not improve on its best; absent, never.",
    )
    early_stopping_threshold: Annotated[float, NotIdentity] = Field(
        0.0, ge=0, description="An improvement counts if it is larger than this."
    )
    load_best_model_at_end: Annotated[bool, NotIdentity] = Field(
        False,
        description="Save the model of the best evaluation instead of the last one. Its checkpoint "
        "is kept beyond `save_total_limit`.",
    )
    metric_for_best_model: Annotated[str | None, NotIdentity] = Field(
        None,
        description="Metric of the evaluations that decides which is best, as in metrics.jsonl "
        "with or without `eval/`, such as `loss` or `rewards/accuracies`; by default `loss`.",
    )
    greater_is_better: Annotated[bool | None, NotIdentity] = Field(
        None,
        description="Whether a larger metric is better; by default it is, unless its name ends "
        "in `loss`.",
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
    save_dtype: memory.SaveDtype = "auto"
    lora: LoraSettings | None = Field(None, description="Train adapters only; off if absent.")
    quantization: memory.Quantization = None
    optim: memory.Optimiser = "adamw"
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    activation_offload: memory.ActivationOffload = False
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
    report_to: Annotated[list[Tracker], NotIdentity] = Field(
        default_factory=list,
        description="Trackers that receive each row of metrics.jsonl as well: `tensorboard`, "
        "`wandb` or `trackio`, each an extra of the package; `none` is none.",
    )
    run_name: Annotated[str | None, NotIdentity] = Field(
        None, description="The run's name in the trackers; by default the path in `output_dir`."
    )
    project: Annotated[str, NotIdentity] = Field(
        "accord", description="The project of W&B and trackio in which the run appears."
    )
    push_to_hub: Annotated[bool, NotIdentity] = Field(
        False, description="Upload `model/` to the Hugging Face hub when the run has ended."
    )
    hub_model_id: Annotated[str | None, NotIdentity] = Field(
        None, description="OWNER/NAME of the hub repository that `push_to_hub` uploads to."
    )
    hub_private_repo: Annotated[bool, NotIdentity] = Field(
        True, description="Whether a repository that `push_to_hub` creates is private."
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
    sharding: many_processes.Sharding = None
    ddp_timeout: many_processes.DdpTimeout = 1800
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with a hub model; only for code you trust.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """How the best evaluation is chosen, if it ends the run or is saved; and `save_dtype`
        unless it is the default."""
        added = {"save_dtype"} if values.get("save_dtype", "auto") != "auto" else set()
        if values.get("load_best_model_at_end") or values.get("early_stopping_patience"):
            added |= BEST_KEYS
        return super().conditional_identity(values) | added

    @property
    def tracks_best(self) -> bool:
        """Whether the best evaluation matters."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None

    @field_validator("report_to", mode="before")
    @classmethod
    def _list_of_trackers(cls, value: Any) -> Any:
        """One name is a list of one, and `none` an empty list, as in transformers."""
        if value in (None, "none", ["none"]):
            return []
        return [value] if isinstance(value, str) else value

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
        for steps, rows in (("eval_steps", "eval_dataset"), ("safety_steps", "safety_dataset")):
            if getattr(self, steps) is not None and getattr(self, rows) is None:
                raise ValueError(f"`{steps}` does nothing without `{rows}`. Set that too.")
        data.check_rows(self)
        return self

    @model_validator(mode="after")
    def _check_best_and_hub(self) -> Self:
        check_best(self)
        check_hub(self)
        memory.check_memory(self)
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
        if self.safety_dataset is not None:
            raise ValueError("`safety_dataset` grades answers, and a reward model gives none.")
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
