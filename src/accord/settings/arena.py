"""The settings of an arena, which rates models by comparisons of their responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings, UnlessDefault
from accord.settings.judge import JudgeSettings
from accord.settings.stages import Contestant


class ArenaSettings(Settings):
    """Rate models by comparisons of their responses to the same prompts, or by given battles."""

    contestants: list[Contestant] = Field([], description="The models.")
    battles: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="A store (.db or a URL), or rows with `model_a`, `model_b` and `winner` "
        "(`model_a`, `model_b`, `tie` or `both_bad`), which are rated in place of `contestants`: "
        "nothing is judged.",
    )
    style: Annotated[list[Literal["length", "headers", "lists", "bold"]], UnlessDefault] = Field(
        [],
        description="What of the answers' style the ratings at equal style control for. A file of "
        "battles needs `conversation_a` and `conversation_b`, or `response_a` and `response_b`.",
    )
    category: Annotated[str | None, UnlessDefault] = Field(
        None,
        description="The column of the battles, or the field of the prompts' `meta`, whose values "
        "are rated apart too, shrunk toward the overall ratings.",
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for store.db and ratings.json."
    )
    judge: JudgeSettings = Field(
        JudgeSettings(), description="The judge that compares the responses."
    )
    ties: Annotated[Literal["half", "rao_kupper", "davidson"], UnlessDefault] = Field(
        "half",
        description="What a tie is: half a win to each side, or an outcome of its own by the model "
        "of Rao and Kupper (1967) or Davidson (1970), which estimates how often models tie.",
    )
    bootstrap: int = Field(200, ge=0, description="Bootstrap samples for the intervals.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Confidence level of the intervals.")
    anchor: str | None = Field(
        None,
        description="Name of the model whose rating is fixed at 1000; by default the mean of all "
        "ratings is.",
    )
    prior: float = Field(
        0.0,
        ge=0,
        description=(
            "Pseudo-battles added to every pair of models, half won by each side, so that a model "
            "that won or lost every battle has a finite rating; 0 adds none."
        ),
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of sides, of noise and of the bootstrap."
    )

    @model_validator(mode="after")
    def _check_battles(self) -> ArenaSettings:
        if self.battles is None and not self.contestants:
            raise ValueError(
                "An arena needs `contestants`, whose responses are compared, or `battles`, the "
                "outcomes of comparisons. Set one of them."
            )
        if self.battles is not None and self.changed("contestants", "judge"):
            raise ValueError(
                f"`{self.changed('contestants', 'judge')}` does nothing with `battles`, which are "
                "rated as they are. Leave it out."
            )
        return self
