"""Settings of `accord probe`: which reward is probed, on which pairs, by which changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings
from accord.settings.dialogue import DialogueText
from accord.settings.judge import LANGUAGE_MODELS, JudgeSettings
from accord.settings.rewards import Rewards, RewardSource, named_sources

Probe = Literal[
    "lengthened",
    "flattered",
    "agreed",
    "formatted",
    "repeated",
    "confident",
    "hedged",
    "blanks",
    "refused",
    "emptied",
    "wrong_prompt",
    "style",
]


class ProbeSettings(Settings):
    """Probe a reward: change answers in ways that add nothing, and see what it makes of them."""

    preferences: Annotated[str, InputPath] = Field(
        description="Held-out pairs: a file, a folder, a hub name, or a preference store."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for probe.json, and for scores.jsonl, from which a run resumes."
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None, description="Reward model folder: short for `rewards` with this one source."
    )
    rewards: Rewards | None = Field(
        None, description="Sources whose weighted sum is the reward, as in `select`."
    )
    judge: JudgeSettings | None = Field(
        None,
        description="A judge that compares pairs, instead of a reward; a language model is asked "
        "in both orders.",
    )
    probes: list[Probe] = Field(
        [], description="Which probes are run; empty for all. Accuracy is always measured."
    )
    max_pairs: int | None = Field(
        200, ge=1, description="Pairs to use, drawn by the seed; null for all."
    )
    category: str | None = Field(
        None,
        description="Column by whose values accuracy is reported; by default `category` or `kind`, "
        "where the rows have one.",
    )
    texts: Annotated[str | None, InputPath] = Field(
        None,
        description="YAML file with phrases of your own, such as in another language: lists under "
        "`filler`, `flattery`, `agreement`, `confidence`, `hedges`, `refusals`, `headings`.",
    )
    training: Annotated[str | None, InputPath] = Field(
        None, description="Pairs that the reward model was trained on, for the distance from them."
    )
    responses: Annotated[str | None, InputPath] = Field(
        None, description="A policy's responses.jsonl, whose distance from `training` is measured."
    )
    training_answers: int = Field(
        2000, ge=100, description="Answers of `training` that are used at most."
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Confidence level of the intervals.")
    dialogue_text: DialogueText = "turns"
    batch_size: Annotated[int, NotIdentity] = Field(
        64, ge=1, description="Answers scored, or pairs judged, before the next are logged."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of reward models.")
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the pairs that are drawn.")

    @model_validator(mode="after")
    def _check_source(self) -> ProbeSettings:
        given = [
            key for key in ("reward_model", "rewards", "judge") if getattr(self, key) is not None
        ]
        if len(given) != 1:
            both = f", not {' and '.join(f'`{key}`' for key in given)}" if given else ""
            raise ValueError(
                f"One reward is probed: give `reward_model` (a folder), `rewards` (a list of "
                f"sources, such as '[{{kind: python, function: r.py:f}}]') or `judge`{both}."
            )
        if self.rewards is not None and not any(source.weight for source in self.rewards):
            raise ValueError("All `rewards` have the weight 0, so there is no score. Give one.")
        if self.judge is not None and self.judge.kind not in LANGUAGE_MODELS:
            raise ValueError(
                f"`judge.kind={self.judge.kind}` is no judge that is asked in words. Give "
                f"`judge.base_url` and `judge.model`, or `judge.kind=local`; a reward model is "
                f"probed by `reward_model`, the embedded world by `rewards='[{{kind: world}}]'`."
            )
        return self

    @model_validator(mode="after")
    def _check_distance(self) -> ProbeSettings:
        if (self.training is None) != (self.responses is None):
            raise ValueError(
                "`responses` are measured by their distance from `training`. Give both or neither."
            )
        if self.training is None and self.changed("training_answers"):
            raise ValueError("`training_answers` does nothing without `training`. Set that too.")
        if self.training is not None and not any(s.kind == "reward_model" for s in self.sources):
            raise ValueError(
                "`training` and `responses` are compared in the hidden states of a reward model, "
                "and there is none among the sources. Leave them out."
            )
        if len(set(self.probes)) != len(self.probes):
            raise ValueError("`probes` names a probe twice. Name each once.")
        return self

    @property
    def sources(self) -> list[RewardSource]:
        """The sources of the reward; empty for a judge of pairs."""
        return named_sources(self.reward_model, self.rewards)
