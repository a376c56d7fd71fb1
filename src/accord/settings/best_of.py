"""Settings of `accord best-of curve`: what each N of best-of-N gains and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings
from accord.settings.dialogue import DialogueText
from accord.settings.reading.load import build, load_yaml
from accord.settings.rewards import Rewards, RewardSource, model_source, named_sources
from accord.settings.sampling import MinP, SamplerSettings, StopTexts, TopK, TopP

_SAMPLING = (
    "num_responses",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "sampler",
    "sampling_batch_size",
    "seed",
)


class CurveSettings(Settings):
    """Best-of-N for each N from one set of responses: expected reward, an independent measure, KL,
    length and cost."""

    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for curve.json, `responses/` and scores.jsonl."
    )
    model: Annotated[str | None, InputPath] = Field(
        None, description="Folder or hub name of the model that answers."
    )
    dataset: Annotated[str | None, InputPath] = Field(
        None, description="Rows with prompts like those that will be served."
    )
    responses: Annotated[str | None, InputPath] = Field(
        None, description="A responses.jsonl instead of `model` and `dataset`."
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None, description="Reward model folder: short for `rewards` with this one source."
    )
    rewards: Rewards | None = Field(
        None, description="Sources whose weighted sum chooses the best response."
    )
    independent: Rewards | None = Field(
        None,
        description="A measure of quality that does not choose: another reward model, an AI judge, "
        "rules, or the embedded world's true reward.",
    )
    num_responses: int = Field(
        64, ge=2, description="Responses to each prompt; N goes up to this number."
    )
    max_new_tokens: int = Field(128, ge=1, description="Maximum tokens of a response.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature, which divides the logits."
    )
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    stop: StopTexts = Field(default_factory=list)
    sampler: SamplerSettings = Field(SamplerSettings(), description="The sampling engine.")
    sampling_batch_size: int = Field(512, ge=1, description="Responses sampled in one batch.")
    max_prompts: int | None = Field(
        None, ge=1, description="Use only the first prompts, up to this number."
    )
    dialogue_text: DialogueText = "turns"
    confidence: float = Field(0.95, gt=0, lt=1, description="Confidence level of the intervals.")
    batch_size: Annotated[int, NotIdentity] = Field(
        512, ge=1, description="Responses scored before the scores are logged."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Precision of the model and of reward models."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of sampling.")
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")

    @model_validator(mode="after")
    def _check_responses(self) -> CurveSettings:
        if self.responses is None:
            if self.model is None or self.dataset is None:
                raise ValueError(
                    "Responses are sampled from `model` to the prompts of `dataset`. Set both, or "
                    "give `responses`."
                )
            return self
        if self.model is not None or self.dataset is not None:
            raise ValueError(
                "`responses` take the place of `model` and `dataset`. Give either, not both."
            )
        key = self.changed(*_SAMPLING)
        if key is not None:
            raise ValueError(
                f"`{key}` is of sampling, and `responses` are sampled already. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> CurveSettings:
        if (self.reward_model is None) == (self.rewards is None):
            raise ValueError(
                "One reward chooses the best response: give `reward_model` (a folder) or "
                "`rewards` (a list of sources)."
            )
        for key, sources in (("rewards", self.rewards), ("independent", self.independent)):
            if sources is not None and not any(source.weight for source in sources):
                raise ValueError(f"All `{key}` have the weight 0, so there is no score. Give one.")
        return self

    @property
    def sources(self) -> list[RewardSource]:
        """The sources of the reward that chooses."""
        return named_sources(self.reward_model, self.rewards)


class _RewardFile(Settings):
    """A file that says what scores."""

    rewards: Rewards = Field(description="Sources whose weighted sum is the score.")


def read_rewards(given: str) -> list[RewardSource]:
    """The sources that a path names: a YAML file with `rewards`, or a reward model's folder or hub
    name. Raises SettingsError.

    Of a run of one training its folder will do.
    """
    path = Path(given)
    if path.suffix.lower() in (".yaml", ".yml"):
        return build(_RewardFile, load_yaml(path), where="rewards").rewards
    is_run = path.is_dir() and not (path / "config.json").is_file() and (path / "model").is_dir()
    return [model_source(str(path / "model") if is_run else given)]
