"""Settings of `accord advise`: the data, the reward, the model, the goal and the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, Settings
from accord.settings.judge import LANGUAGE_MODELS, JudgeSettings
from accord.settings.rewards import Rewards, RewardSource, named_sources


class AdviseSettings(Settings):
    """Advise whether to train, and by which method, from the data, reward, model and machine."""

    model: Annotated[str, InputPath] = Field(description="The model as it is: folder or hub name.")
    data: Annotated[list[str], InputPath] = Field(
        [], description="Files of demonstrations, pairs, rankings or labels, and stores."
    )
    supervised: bool = Field(
        True,
        description="Whether the model has learned to answer by SFT; false for a base model.",
    )
    goal: Literal["helpful", "safe", "verifiable", "style"] = Field(
        "helpful",
        description="What is to improve: answers that people prefer, refusals of what is harmful, "
        "a task whose answers a rule checks, or a form or tone.",
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None, description="Reward model folder: short for `rewards` with this one source."
    )
    rewards: Rewards | None = Field(
        None, description="Sources whose weighted sum is the reward, as in `select`."
    )
    judge: JudgeSettings | None = Field(
        None, description="A judge that can compare answers; it is not asked anything here."
    )
    probe: Annotated[str | None, InputPath] = Field(
        None, description="probe.json of `accord probe` on the reward or judge."
    )
    responses: Annotated[str | None, InputPath] = Field(
        None,
        description="The model's responses.jsonl, with 2 or more answers to each prompt: shows how "
        "much better than their mean the best is by the reward.",
    )
    max_prompts: int = Field(
        100, ge=2, description="Prompts of `responses` whose answers are scored."
    )
    pairs_from: Literal["model", "elsewhere"] | None = Field(
        None, description="Who wrote the answers of the pairs: this model, or another author."
    )
    held_out: Annotated[list[str], InputPath] = Field(
        [], description="Held-out splits, whose prompts must not be among the data."
    )
    evaluation_sets: Annotated[list[str], InputPath] = Field(
        [], description="Evaluation sets, whose texts must not be among the data."
    )
    candidates: int = Field(
        1, ge=1, description="Answers that a request may cost at inference, for best-of-N."
    )
    trainable: bool = Field(True, description="Whether the model can be trained at all.")
    online: bool | None = Field(
        None,
        description="Whether the machine can sample during training; null judges it by its memory "
        "and the model's size.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device to compute on.")
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")

    @model_validator(mode="after")
    def _check_reward(self) -> AdviseSettings:
        given = [
            key for key in ("reward_model", "rewards", "judge") if getattr(self, key) is not None
        ]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(f'`{key}`' for key in given)} both say what scores answers. Keep "
                "the one that you would train or choose by."
            )
        if self.judge is not None and self.judge.kind not in LANGUAGE_MODELS:
            raise ValueError(
                f"`judge.kind={self.judge.kind}` is no judge that is asked in words. Give "
                "`reward_model` or `rewards` for what scores answers."
            )
        if self.probe is not None and not given:
            raise ValueError(
                "`probe` is the verdict on a reward, and none is given. Give `reward_model`, "
                "`rewards` or `judge` as well, or leave `probe` out."
            )
        if self.responses is not None and not (self.reward_model or self.rewards):
            raise ValueError(
                "`responses` are scored by a reward, and none is given. Give `reward_model` or "
                "`rewards`, or leave `responses` out."
            )
        return self

    @property
    def sources(self) -> list[RewardSource]:
        """The sources of the reward; empty without one, and for a judge of pairs."""
        return named_sources(self.reward_model, self.rewards)
