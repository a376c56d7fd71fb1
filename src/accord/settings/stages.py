"""Settings of the stages that do not train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from accord.settings.base import (
    InputPath,
    NotIdentity,
    PathByName,
    Settings,
)
from accord.settings.dialogue import DialogueText
from accord.settings.judge import JudgeSettings
from accord.settings.rewards import Rewards, RewardSource, WorldSource, named_sources
from accord.settings.sampling import MinP, SamplerSettings, StopTexts, TopK, TopP


class WorldSettings(Settings):
    """The embedded world: prompts, demonstrations and an untrained model, written to a folder."""

    output_dir: Annotated[str, NotIdentity] = Field(description="Folder to write to.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random draws of the world.")
    demonstrations: int = Field(8000, ge=1, description="Prompts with a demonstration.")
    corpus: int = Field(8000, ge=0, description="Texts for the base model.")
    train_prompts: int = Field(2000, ge=1, description="Prompts for training, without an answer.")
    test_prompts: int = Field(200, ge=1, description="Prompts for tests, in no other file.")
    vocab_size: int = Field(1280, ge=300, description="Entries of the tokenizer.")
    hidden_size: int = Field(128, ge=8, description="Width of the model.")
    num_hidden_layers: int = Field(4, ge=1, description="Layers of the model.")
    num_attention_heads: int = Field(4, ge=1, description="Attention heads of the model.")


class ScratchSettings(Settings):
    """A tokenizer trained on a data set and an untrained model for it."""

    dataset: Annotated[str, InputPath] = Field(
        description="Rows whose text the tokenizer is trained on."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder to write to; the model is written to `model/` in it."
    )
    architecture: str = Field("llama", description="A transformers model type with a decoder.")
    config: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="Keys of that model type's configuration."
    )
    vocab_size: int = Field(8192, ge=300, description="Entries of the byte-level BPE tokenizer.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the weights.")


class SplitSettings(Settings):
    """Read a data set, report what can't be used, and split it into train and test by prompt."""

    dataset: Annotated[str, InputPath] = Field(description="A file, a folder, or a hub name.")
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for train.jsonl, test.jsonl and the report."
    )
    dialogue_text: DialogueText = "turns"
    test_fraction: float = Field(0.1, gt=0, lt=1, description="Share of held-out prompts.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split.")


class SampleSettings(Settings):
    """Sample K responses to each prompt."""

    model: Annotated[str, InputPath] = Field(description="Model folder or hub name.")
    dataset: Annotated[str, InputPath] = Field(description="Rows with prompts.")
    output_dir: Annotated[str, NotIdentity] = Field(description="Folder for responses.jsonl.")
    dialogue_text: DialogueText = "turns"
    model_name: str | None = Field(
        None, description="The model's name in responses.jsonl; by default its folder's name."
    )
    store: Annotated[str | None, PathByName] = Field(
        None, description="A preference store that the responses are added to as well."
    )
    num_responses: int = Field(4, ge=1, description="Responses to each prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Maximum tokens of a response.")
    temperature: float = Field(
        1.0,
        ge=0,
        description="Sampling temperature, which divides the logits; 0 takes the likeliest token.",
    )
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    stop: StopTexts = Field(default_factory=list)
    sampler: SamplerSettings = Field(SamplerSettings(), description="The sampling engine.")
    batch_size: int = Field(512, ge=1, description="Responses sampled in one batch.")
    max_prompts: int | None = Field(
        None, ge=1, description="Use only the first prompts, up to this number."
    )
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens of a prompt; longer prompts are left out, and their number is "
        "logged.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of the model.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of sampling.")
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")

    @model_validator(mode="after")
    def _check_greedy(self) -> SampleSettings:
        key = self.changed("top_p", "top_k", "min_p")
        if self.temperature == 0 and key is not None:
            raise ValueError(
                f"`{key}` does nothing with `temperature=0`, which takes the likeliest token. "
                "Leave it out, or set a temperature."
            )
        return self


class CompareSettings(Settings):
    """Compare the responses to each prompt and save the verdicts in a preference store."""

    responses: Annotated[list[str], InputPath] = Field(description="responses.jsonl files.")
    output_dir: Annotated[str, NotIdentity] = Field(description="Folder for store.db.")
    judge: JudgeSettings = Field(
        JudgeSettings(), description="The judge that compares the responses."
    )
    form: Literal["pairs", "best_worst", "rankings", "labels"] = Field(
        "pairs",
        description="Form of the verdicts: disjoint pairs; one ranking of all responses to a "
        "prompt; or, from such a ranking, the best and the worst as a pair, or a label for each "
        "response: 1 if it beats more of the others than beat it, 0 if fewer.",
    )
    earlier: Annotated[str | None, InputPath] = Field(
        None,
        description="A preference store whose responses and verdicts are copied before the new "
        "ones are added.",
    )
    round: int = Field(0, ge=0, description="Round number that is stored with the new verdicts.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of pairs, order and noise.")


class SelectSettings(Settings):
    """Best-of-N: of the first N responses to each prompt, select the one with the highest
    reward."""

    responses: Annotated[str, InputPath] = Field(
        description="A responses.jsonl file with at least N responses to each prompt."
    )
    output_dir: Annotated[str, NotIdentity] = Field(description="Folder for responses.jsonl.")
    n: int = Field(16, ge=1, description="Number of responses to select from.")
    reward_model: Annotated[str | None, InputPath] = Field(
        None, description="Reward model folder: short for `rewards` with this one source."
    )
    rewards: Rewards | None = Field(
        None,
        description="Sources whose weighted sum is the score; without them and `reward_model` it "
        "is the embedded world's true reward.",
    )
    model_name: str = Field(
        description="The model's name in the new responses.jsonl, such as best-of-16."
    )
    # Part of the identity, as in the digests of earlier runs.
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device to compute on.")

    @model_validator(mode="after")
    def _check_sources(self) -> SelectSettings:
        if self.reward_model is not None and self.rewards is not None:
            raise ValueError("`reward_model` and `rewards` both say what scores. Keep one of them.")
        return self

    @property
    def sources(self) -> list[RewardSource]:
        """The sources of the score."""
        return named_sources(self.reward_model, self.rewards) or [WorldSource(kind="world")]


class Contestant(Settings):
    """A model in the arena, in an evaluation or in the report."""

    name: str = Field(description="The model's name.")
    responses: Annotated[str, InputPath] = Field(
        description="The file responses.jsonl with its responses to the shared prompts."
    )
    model: Annotated[str | None, InputPath] = Field(
        None, description="The model's folder, for the KL from the reference; absent for best-of-N."
    )
    best_of: int | None = Field(
        None, ge=1, description="N of best-of-N on the reference, whose KL has a closed form."
    )
    train: Annotated[str | None, PathByName] = Field(
        None, description="The folder of its training stage, for the curves."
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None,
        description="The folder of the reward model that it was trained against. Its gain over the "
        "first contestant by this proxy is reported beside its gain in true reward.",
    )
    ceiling: bool = Field(
        False,
        description="Selected by the true reward: an upper bound, which is never reported as the "
        "best model.",
    )


class EvaluateSettings(Settings):
    """Evaluate each model's responses: rewards, KL, length, diversity, refusals."""

    REMOVED: ClassVar[Mapping[str, Any]] = {"seed": 0}

    contestants: list[Contestant] = Field(description="The models.")
    output_dir: Annotated[str, NotIdentity] = Field(description="Folder for evaluation.json.")
    reference: Annotated[str, InputPath] = Field(
        description="Folder of the reference model of the KL."
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None, description="Folder of a reward model whose scores are reported."
    )
    world: bool = Field(False, description="Report the embedded world's true reward as well.")
    comparisons: Annotated[str | None, InputPath] = Field(
        None, description="Held-out comparisons on which the reward model's accuracy is measured."
    )
    dialogue_text: DialogueText = "turns"
    clear_gap: float = Field(
        0.2,
        ge=0,
        description="World: pairs whose true rewards differ by at least this count as clearly "
        "different.",
    )
    # Part of the identity, as in the digests of earlier runs.
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device to compute on.")

    @model_validator(mode="after")
    def _check_comparisons(self) -> EvaluateSettings:
        if self.comparisons is not None and self.reward_model is None:
            raise ValueError(
                "`comparisons` measure the accuracy of a reward model, and there is none. Set "
                "`reward_model`, or leave it out."
            )
        if self.comparisons is None and self.changed("clear_gap"):
            raise ValueError(
                "`clear_gap` divides `comparisons` into two groups. Set these too, or leave it out."
            )
        return self


class ReportSettings(Settings):
    """One self-contained HTML page and results.json."""

    run: Annotated[str, PathByName] = Field(
        description="Folder of the run whose stages the report describes."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for report.html and results.json."
    )
    title: str = Field("accord report", description="Title of the page.")
    contestants: list[Contestant] = Field(default_factory=list, description="The models, in order.")
    evaluation: Annotated[str | None, InputPath] = Field(
        None, description="The file evaluation.json to report; by default the run's newest."
    )
    ratings: Annotated[str | None, InputPath] = Field(
        None, description="The file ratings.json to report; by default the run's newest."
    )
    examples: int = Field(
        12, ge=0, description="Number of prompts whose answers are shown side by side."
    )
