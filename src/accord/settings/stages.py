"""Settings of the stages that do not train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from accord.settings.base import Settings, Verbatim
from accord.settings.endpoint import EndpointSettings
from accord.settings.rewards import FlawSettings, Rewards, RewardSource, WorldSource, model_source
from accord.settings.sampling import SamplerSettings


class WorldSettings(Settings):
    """The embedded world: prompts, demonstrations and an untrained model, written to a folder."""

    output_dir: str = Field(description="Folder to write to.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything the world draws.")
    demonstrations: int = Field(8000, ge=1, description="Prompts with a demonstration.")
    corpus: int = Field(8000, ge=0, description="Texts for the base model.")
    train_prompts: int = Field(2000, ge=1, description="Prompts without an answer to train on.")
    test_prompts: int = Field(200, ge=1, description="Prompts that appear nowhere else.")
    vocab_size: int = Field(1280, ge=300, description="Entries of the tokenizer.")
    hidden_size: int = Field(128, ge=8, description="Width of the model.")
    num_hidden_layers: int = Field(4, ge=1, description="Layers of the model.")
    num_attention_heads: int = Field(4, ge=1, description="Attention heads of the model.")


class ScratchSettings(Settings):
    """A tokenizer trained on a data set and an untrained model for it."""

    dataset: str = Field(description="Rows whose text the tokenizer is trained on.")
    output_dir: str = Field(description="Folder to write to; the model lies in `model/`.")
    architecture: str = Field("llama", description="A transformers model type with a decoder.")
    config: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="Keys of that model type's configuration."
    )
    vocab_size: int = Field(8192, ge=300, description="Entries of the byte-level BPE tokenizer.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the weights.")


class SplitSettings(Settings):
    """Read a data set, report what can't be used, and split it into train and test by prompt."""

    dataset: str = Field(description="A file, a folder, or a hub name.")
    output_dir: str = Field(description="Folder for train.jsonl and test.jsonl and the report.")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the prompts held out.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split.")


class SampleSettings(Settings):
    """K responses a prompt."""

    model: str = Field(description="Model folder or hub name.")
    dataset: str = Field(description="Rows with prompts.")
    output_dir: str = Field(description="Folder for responses.jsonl.")
    model_name: str | None = Field(
        None, description="The model's name in what is written; by default its folder's."
    )
    store: str | None = Field(
        None, description="A preference store that the responses are added to as well."
    )
    num_responses: int = Field(4, ge=1, description="Responses to each prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Tokens a response may have.")
    temperature: float = Field(1.0, ge=0, description="Divides the logits; 0 takes the likeliest.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest mass only.")
    top_k: int = Field(0, ge=0, description="Sample from so many likeliest tokens; 0 is all.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Leave out tokens less likely than this times the likeliest."
    )
    stop: list[Verbatim] = Field(
        default_factory=list,
        description="Texts that end a response, which is then what stands before.",
    )
    sampler: SamplerSettings = Field(SamplerSettings(), description="What writes the responses.")
    batch_size: int = Field(512, ge=1, description="Responses written at the same time.")
    max_prompts: int | None = Field(None, ge=1, description="Use the first so many prompts.")
    max_prompt_length: int | None = Field(
        None, ge=1, description="Longer prompts (in tokens) are left out, and counted."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of the model.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draws.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")

    @model_validator(mode="after")
    def _tokens_to_choose_from(self) -> SampleSettings:
        key = self.changed("top_p", "top_k", "min_p")
        if self.temperature == 0 and key is not None:
            raise ValueError(
                f"`{key}` does nothing with `temperature=0`, which takes the likeliest token. "
                "Leave it out, or set a temperature."
            )
        return self


class JudgeSettings(EndpointSettings):
    """Who compares responses."""

    kind: Literal["world", "reward_model", "endpoint"] = Field(
        "world",
        description="The embedded world's annotators, a reward model, or a language model at an "
        "OpenAI-compatible endpoint, which sees each pair in both orders.",
    )
    model: str | None = Field(
        None, description="The reward model's folder, or the model's name at the endpoint."
    )
    noise: float = Field(
        0.1,
        ge=0,
        description=(
            "World: scale of Bradley-Terry noise, in units of the true reward; 0 is exact."
        ),
    )
    flaws: FlawSettings = Field(FlawSettings(), description="World: planted flaws.")
    name: str | None = Field(None, description="The annotator's name in the store.")

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> JudgeSettings:
        if self.kind == "endpoint" and (self.base_url is None or self.model is None):
            raise ValueError(
                "`kind=endpoint` needs `base_url`, such as http://127.0.0.1:8000/v1, and "
                "`model`, the model's name there."
            )
        if self.kind == "world" and self.model is not None:
            raise ValueError(
                "`model` does nothing with `kind=world`, whose annotators have none. Set "
                "`kind=reward_model`, or leave it out."
            )
        key = self.changed(*EndpointSettings.model_fields)
        if self.kind != "endpoint" and key is not None:
            raise ValueError(f"`{key}` belongs to `kind=endpoint`. Set that too, or leave it out.")
        key = self.changed("noise", "flaws")
        if self.kind != "world" and key is not None:
            raise ValueError(
                f"`{key}` is of the world's annotators, and does nothing with `kind={self.kind}`. "
                "Leave it out."
            )
        return self


class CompareSettings(Settings):
    """Compare the responses to each prompt and keep the verdicts in a preference store."""

    responses: list[str] = Field(description="responses.jsonl files.")
    output_dir: str = Field(description="Folder for store.db.")
    judge: JudgeSettings = Field(JudgeSettings(), description="Who compares.")
    form: Literal["pairs", "best_worst", "rankings", "labels"] = Field(
        "pairs",
        description="Disjoint pairs; one ranking of all responses to a prompt; or, of the same "
        "ranking, the best and the worst as a pair, or a label for each response by itself: 1 if "
        "it beats more of the others than beat it, 0 if fewer.",
    )
    earlier: str | None = Field(
        None,
        description="A preference store whose responses and verdicts are taken over before the "
        "new ones are added.",
    )
    round: int = Field(0, ge=0, description="Number that the new verdicts are kept under.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of pairs, order and noise.")


class SelectSettings(Settings):
    """Best-of-N: of the first N responses to each prompt, keep the one with the highest reward."""

    responses: str = Field(description="A responses.jsonl with at least N responses a prompt.")
    output_dir: str = Field(description="Folder for responses.jsonl.")
    n: int = Field(16, ge=1, description="Responses to choose from.")
    reward_model: str | None = Field(
        None, description="Reward model folder: short for `rewards` with this one source."
    )
    rewards: Rewards | None = Field(
        None,
        description="Sources whose weighted sum is the score; without them and `reward_model` it "
        "is the embedded world's true reward.",
    )
    model_name: str = Field(description="Name of the result, such as best-of-16.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")

    @model_validator(mode="after")
    def _one_reward(self) -> SelectSettings:
        if self.reward_model is not None and self.rewards is not None:
            raise ValueError("`reward_model` and `rewards` both say what scores. Keep one of them.")
        return self

    @property
    def sources(self) -> list[RewardSource]:
        """What scores."""
        if self.reward_model is not None:
            return [model_source(self.reward_model)]
        return self.rewards or [WorldSource(kind="world")]


class Contestant(Settings):
    """A model in the arena or the report."""

    name: str = Field(description="Its name.")
    responses: str = Field(description="Its responses.jsonl on the shared prompts.")
    model: str | None = Field(
        None, description="Its folder, for the KL to the reference; absent for a selection."
    )
    best_of: int | None = Field(
        None, ge=1, description="N of best-of-N on the reference, whose KL has a closed form."
    )
    train: str | None = Field(None, description="Its training stage's folder, for the curves.")
    reward_model: str | None = Field(
        None,
        description="The reward model that it was trained against: by this proxy, what it gained "
        "over the first contestant is told, and held against what it gained in truth.",
    )
    ceiling: bool = Field(
        False,
        description="Chosen by the truth itself: tells what could be reached, wins no headline.",
    )


class ArenaSettings(Settings):
    """Rate models by comparisons of their responses to the same prompts."""

    contestants: list[Contestant] = Field(description="The models.")
    output_dir: str = Field(description="Folder for store.db and ratings.json.")
    judge: JudgeSettings = Field(JudgeSettings(), description="Who compares.")
    bootstrap: int = Field(200, ge=0, description="Bootstrap rounds for the intervals.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the intervals.")
    anchor: str | None = Field(
        None, description="The model whose rating is fixed at 1000; by default the mean is."
    )
    prior: float = Field(
        0.0,
        ge=0,
        description=(
            "Pseudo-battles added to every pair of models, half won by each side, so that a model "
            "that won or lost every battle has a finite rating; 0 adds none."
        ),
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of sides, noise and bootstrap.")


class EvaluateSettings(Settings):
    """Measure each model's responses: rewards, KL, length, diversity, refusals."""

    contestants: list[Contestant] = Field(description="The models.")
    output_dir: str = Field(description="Folder for evaluation.json.")
    reference: str = Field(description="Model folder that KL is measured from.")
    reward_model: str | None = Field(None, description="Reward model whose score is reported.")
    world: bool = Field(False, description="Report the embedded world's true reward as well.")
    comparisons: str | None = Field(
        None, description="Held-out comparisons on which the reward model's accuracy is told."
    )
    clear_gap: float = Field(
        0.2, ge=0, description="World: pairs whose true rewards differ by this differ clearly."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the intervals' bootstrap.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")

    @model_validator(mode="after")
    def _what_the_reward_model_is_held_to(self) -> EvaluateSettings:
        if self.comparisons is not None and self.reward_model is None:
            raise ValueError(
                "`comparisons` tell a reward model's accuracy, and there is none. Set "
                "`reward_model`, or leave it out."
            )
        if self.comparisons is None and self.changed("clear_gap"):
            raise ValueError("`clear_gap` sorts `comparisons`. Set these too, or leave it out.")
        return self


class ReportSettings(Settings):
    """One self-contained HTML page and results.json."""

    run: str = Field(description="Folder of the run whose stages are told.")
    output_dir: str = Field(description="Folder for report.html and results.json.")
    title: str = Field("accord report", description="Title of the page.")
    contestants: list[Contestant] = Field(default_factory=list, description="The models, in order.")
    evaluation: str | None = Field(None, description="evaluation.json to tell of.")
    ratings: str | None = Field(None, description="ratings.json to tell of.")
    examples: int = Field(12, ge=0, description="Prompts whose answers are shown side by side.")
