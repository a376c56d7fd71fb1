"""Settings of `accord label`: which judges are asked what, about which responses of a store."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from accord.settings.base import InputPath, Settings
from accord.settings.judge import LANGUAGE_MODELS, JudgeSettings


class LabelSettings(Settings):
    """Which judges are asked about which pairs of responses in a store, and what they are asked."""

    judges: list[JudgeSettings] = Field(
        min_length=1,
        description="The judges, each a table as `judge` of compare; several are a panel. The keys "
        "of a single judge may stand beside the other keys.",
    )
    quorum: int = Field(
        1,
        ge=1,
        description="Judges that must decide a pair for it to have a label, at least: a pair with "
        "fewer is one for people (`--escalate`). Train with `filter.min_votes` of the same number.",
    )
    criteria: dict[str, str] = Field(
        {},
        description="Criteria that are judged one by one, a request each: a name, and the question "
        "or rubric. Without any, each judge's own `criterion` is asked of the whole.",
    )
    models: list[str] = Field(
        [], description="The models whose responses are judged; empty for all models."
    )
    prompts: Annotated[str | None, InputPath] = Field(
        None, description="A data set: only responses to its prompts are judged."
    )
    pairs_per_prompt: int | None = Field(
        None, ge=1, description="Pairs of each prompt, drawn by the seed; absent for all pairs."
    )
    round: int = Field(0, ge=0, description="Round that the verdicts belong to.")
    queue: str = Field(
        "main",
        min_length=1,
        max_length=100,
        description="With `--escalate`: the queue of `accord annotate` (its `name`).",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of `pairs_per_prompt`.")

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        for judge in self.judges:
            if judge.kind not in LANGUAGE_MODELS:
                raise ValueError(
                    f"a judge is of kind={judge.kind}, but only language models are asked. Give "
                    f"`base_url` and `model` for one at an endpoint, or `kind=local` and `model`; "
                    f"other judges label with `accord compare` in a recipe"
                )
            if self.criteria and judge.changed("criterion"):
                raise ValueError(
                    "a judge's `criterion` is not asked where there are `criteria`: leave one of "
                    "them out"
                )
        names = [judge.name or judge.model for judge in self.judges]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"two judges are called {twice!r} and would replace each other's verdicts: give "
                f"each a `name` of its own"
            )
        if self.quorum > len(self.judges):
            raise ValueError(
                f"`quorum` is {self.quorum}, which {len(self.judges)} judges can never reach: "
                f"lower it, or add judges"
            )
        return self
