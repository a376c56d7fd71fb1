"""The settings of which verdicts of a preference store train, and how they become labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from accord.settings.base import PathByName, Settings, UnlessDefault

WHOLE = "overall"
"""The name of the criterion of verdicts on the whole response."""


class VerdictFilter(Settings):
    """Which verdicts of a preference store train, and how they become labels."""

    source: Annotated[list[str] | None, PathByName] = Field(
        None,
        min_length=1,
        description="Verdicts from these sources alone, such as `person`, `judge` or the name of "
        "an imported file.",
    )
    round: list[int] | None = Field(
        None, min_length=1, description="Verdicts of these rounds alone."
    )
    annotator: list[str] | None = Field(
        None, min_length=1, description="Verdicts of these annotators alone."
    )
    criterion: list[str] | None = Field(
        None,
        min_length=1,
        description="Verdicts on these criteria alone; `overall` is the whole response.",
    )
    min_votes: int = Field(
        1, ge=1, description="Annotators who have judged the same responses, at least."
    )
    agreement: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of an item's votes that its most frequent outcome has, at least; of "
        "rankings, the mean of this over their pairs.",
    )
    labels: Literal["soft", "probability", "majority", "margin", "separate"] = Field(
        "soft",
        description="What several annotators' votes on the same responses become: a soft label, "
        "of a pair the share that prefers a response (a tie is half a vote), of rankings the mean "
        "of their losses; the same from the probabilities that judges gave, where they gave one; "
        "the majority's choice as if it were certain, of rankings the Borda count's; the same with "
        "the share for it less the share against it as the pair's margin, for `reward`; or a row "
        "for each vote.",
    )
    margins: bool = Field(
        True,
        description="Read the strength of a preference, 1 to 3, as the margin of its pair, of "
        "several votes the mean; only `reward` learns from margins.",
    )
    unchecked_judges: list[str] | None = Field(
        None,
        min_length=1,
        description="Judges, by annotator or model, that train although `accord judge check` has "
        "not passed them.",
    )

    judge_checks: Annotated[str | None, PathByName, UnlessDefault] = Field(
        None,
        description="Another preference store whose checks of judges count too, as "
        "`accord judge check --store` writes them.",
    )

    @field_validator("source", "round", "annotator", "criterion", "unchecked_judges", mode="before")
    @classmethod
    def _list_of_values(cls, value: Any) -> Any:
        """One value is a list of one."""
        return [value] if isinstance(value, str | int) else value


Filter = Annotated[
    VerdictFilter | None,
    UnlessDefault,
    Field(
        description="Which verdicts train, where a data set is a preference store; absent, all "
        "that count."
    ),
]
