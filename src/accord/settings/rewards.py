"""Reward sources: the settings of each kind of source, and its weight in the sum.

To add a source, write its class here, add it to `RewardSource`, and write the function that
computes it: for a rule, in `compare/rewards/rules.py` together with its row in `RULES`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from accord.settings.base import InputCode, InputPath, Settings
from accord.settings.endpoint import EndpointSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FUNCTION = re.compile(r"(?P<module>[^:]+):(?P<name>[^\W\d]\w*)")

Combine = Literal["mean", "mean_minus_variance", "worst"]


class FlawSettings(Settings):
    """Flaws planted in the simulated annotators, in units of the true reward."""

    length: float = Field(0.0, description="Bonus for each 10 words of a response.")
    flattery: float = Field(
        0.0, description="Bonus for a response that contains a flattering word."
    )
    refusal: float = Field(0.0, description="Bonus for a response that refuses.")


class SourceSettings(Settings):
    """The settings that every reward source has."""

    model_config = ConfigDict(str_strip_whitespace=False)  # blanks in a pattern are significant

    kind: str = Field(description="What gives the score.")
    name: str | None = Field(
        None,
        description="Its name in the metrics (`rewards/NAME/mean`); by default the model's folder, "
        "the function's name, or the kind.",
    )
    weight: float = Field(
        1.0,
        description="Its weight in the sum; 0 only logs it, and below 0 a high score counts "
        "against a response.",
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't be a metric's name. Use letters, digits, . - and _")
        return name

    @property
    def title(self) -> str:
        """Its name in the metrics."""
        return self.name or self.kind


class RewardModelSource(SourceSettings):
    """A reward model's normalised score, or one score that combines several models or heads."""

    kind: Literal["reward_model"] = Field(description="A trained reward model.")
    model: Annotated[str | list[str], InputPath] = Field(
        description="Its folder, or the folders of an ensemble; each with its own tokenizer."
    )
    combine: Combine | None = Field(
        None,
        description="One score from all heads of all folders, each normalised: their mean, the "
        "mean less `variance_penalty` times their variance, or the worst (Coste et al. 2023). By "
        "default each folder's own score, averaged over the folders.",
    )
    variance_penalty: float = Field(
        0.5, ge=0, description="λ of `combine=mean_minus_variance`: what disagreement costs."
    )

    @model_validator(mode="after")
    def _check_combination(self) -> RewardModelSource:
        if not self.folders:
            raise ValueError("`model` is an empty list. Name at least one reward model's folder.")
        if len(set(self.folders)) != len(self.folders):
            raise ValueError("`model` names a folder twice. A model does not disagree with itself.")
        if self.changed("variance_penalty") and self.combine != "mean_minus_variance":
            raise ValueError(
                "`variance_penalty` is read by `combine=mean_minus_variance` only. Set that too, "
                "or leave it out."
            )
        return self

    @property
    def folders(self) -> list[str]:
        """The models' folders."""
        return [self.model] if isinstance(self.model, str) else self.model

    @property
    def title(self) -> str:
        """Its name, or the first folder's."""
        path = Path(self.folders[0])
        folder = path.parent.name if path.name == "model" else path.name
        return self.name or (folder if _NAME.fullmatch(folder) else self.kind)


class LengthSource(SourceSettings):
    """0 within the limits, and a penalty for each word or token outside of them."""

    kind: Literal["length"] = Field(description="The length of a response.")
    at_least: int | None = Field(None, ge=0, description="The shortest length that costs nothing.")
    at_most: int | None = Field(None, ge=0, description="The longest length that costs nothing.")
    penalty: float = Field(0.01, gt=0, description="Cost of a word or token outside of the limits.")
    tokenizer: Annotated[str | None, InputPath] = Field(
        None,
        description="Folder or hub name of the tokenizer whose tokens are counted; words, if "
        "absent.",
    )

    @model_validator(mode="after")
    def _check_limits(self) -> LengthSource:
        if self.at_least is None and self.at_most is None:
            raise ValueError("A `length` needs `at_least`, `at_most`, or both: equal is a target.")
        if None not in (self.at_least, self.at_most) and self.at_least > self.at_most:  # type: ignore[operator]
            raise ValueError(
                f"`at_least` is {self.at_least} and `at_most` {self.at_most}: no length lies "
                f"between them. Exchange them."
            )
        return self


class RegexSource(SourceSettings):
    """1 for a response in which a pattern is found, or is not found; 0 for others."""

    kind: Literal["regex"] = Field(description="A regular expression.")
    pattern: str = Field(
        description="What is looked for, in the syntax of the `regex` package: Python's, and more."
    )
    match: bool = Field(True, description="Whether it must be found, or must not.")
    max_characters: int = Field(
        20_000, ge=1, description="A longer response scores 0 and is not searched."
    )

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        import regex  # the package that the rule searches with

        try:
            regex.compile(pattern)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern


class FormatSource(SourceSettings):
    """1 for a response that has a form as a whole, 0 for others."""

    kind: Literal["format"] = Field(description="The form of a response.")
    form: Literal["json", "tags"] = Field(
        "json", description="JSON; or sections in tags, one after the other, and nothing else."
    )
    keys: list[str] = Field(
        default_factory=list, description="JSON: keys that it must have, as an object."
    )
    tags: list[str] = Field(
        default_factory=list,
        description="Tags: the sections in order, such as think and answer for "
        "`<think>…</think><answer>…</answer>`.",
    )

    @model_validator(mode="after")
    def _check_form(self) -> FormatSource:
        if (self.form == "tags") != bool(self.tags):
            raise ValueError("`tags` belongs to `form=tags`, which needs it. Give both or neither.")
        if self.keys and self.form != "json":
            raise ValueError("`keys` belongs to `form=json`. Leave it out.")
        if len(set(self.tags)) != len(self.tags) or "" in self.tags:
            raise ValueError("`tags` holds an empty or repeated tag. Name each section once.")
        return self


class RepetitionSource(SourceSettings):
    """Minus the share of a response's n-grams that occurred in it before, from −1 to 0."""

    kind: Literal["repetition"] = Field(description="How much a response repeats itself.")
    ngram: int = Field(3, ge=1, description="How many words, or characters, in a row.")
    unit: Literal["words", "characters"] = Field(
        "words", description="Characters also see a repetition without blanks, such as Sssss."
    )


class ContainsSource(SourceSettings):
    """1 for a response that contains a text, or does not contain it; 0 for others."""

    kind: Literal["contains"] = Field(description="A text in the response.")
    text: str = Field(description="What is looked for, letter by letter.")
    match: bool = Field(True, description="Whether it must be there, or must not.")
    case_sensitive: bool = Field(False, description="Whether upper and lower case differ.")

    @field_validator("text")
    @classmethod
    def _check_text(cls, text: str) -> str:
        if not text:
            raise ValueError("an empty text is in every response. Name what is looked for")
        return text


class AnswerSource(SourceSettings):
    """1 for a response that gives the answer in the prompt's row, 0 for others."""

    kind: Literal["answer"] = Field(description="The right answer, from the row of the prompt.")
    column: str = Field("answer", description="Column of the prompts' rows that holds it.")
    compare: Literal["exact", "contains", "number"] = Field(
        "exact",
        description="The response equals the answer except for blanks, contains it, or has the "
        "same last number.",
    )
    case_sensitive: bool = Field(False, description="Whether upper and lower case differ.")

    @model_validator(mode="after")
    def _check_case(self) -> AnswerSource:
        if self.case_sensitive and self.compare == "number":
            raise ValueError(
                "`case_sensitive` does nothing with `compare=number`, which reads digits. Leave it "
                "out."
            )
        return self


class WorldSource(SourceSettings):
    """The embedded world's true reward, with flaws if they are planted."""

    kind: Literal["world"] = Field(description="The embedded world's true reward.")
    flaws: FlawSettings = Field(FlawSettings(), description="Planted flaws.")


class PythonSource(SourceSettings):
    """A Python function that you write, from prompts and responses to a number or None for each."""

    kind: Literal["python"] = Field(description="A Python function; its module is run.")
    function: Annotated[str, InputCode] = Field(
        description="`module:function` or `file.py:function`. Called with the names of its "
        "parameters: `prompts`, `responses` or TRL's `completions`, and columns of the rows. It "
        "may be `async`."
    )

    @field_validator("function")
    @classmethod
    def _check_function(cls, function: str) -> str:
        if not _FUNCTION.fullmatch(function):
            raise ValueError(f"{function!r} names no function. Write module:function, such as r:f")
        return function

    @property
    def module(self) -> str:
        """The module, or the path of the file."""
        return self.function.partition(":")[0]

    @property
    def function_name(self) -> str:
        """The function's name in its module."""
        return self.function.partition(":")[2]

    @property
    def title(self) -> str:
        """Its name, or the function's."""
        is_metric_name = _NAME.fullmatch(self.function_name)
        return self.name or (self.function_name if is_metric_name else self.kind)


class JudgeSource(EndpointSettings, SourceSettings):
    """A score on a fixed scale of whole numbers, given by a language model."""

    kind: Literal["judge"] = Field(description="A language model that judges, at an endpoint.")
    base_url: str = Field(description=str(EndpointSettings.model_fields["base_url"].description))
    # A local server names a model after its folder, which then is an input.
    model: Annotated[str, InputPath] = Field(description="Endpoint: the model's name there.")
    lowest: int = Field(1, description="The score of the worst response.")
    highest: int = Field(10, description="The score of the best response.")
    unreadable: Literal["error", "mean"] = Field(
        "error",
        description="How a response is scored when the judge's answer can't be parsed or the "
        "server refuses the request: an error; or the mean score of the other responses to its "
        "prompt (of all responses where there is none), logged as "
        "`rewards/NAME.unreadable/mean`.",
    )

    @model_validator(mode="after")
    def _check_scale(self) -> JudgeSource:
        if not self.lowest < self.highest <= self.lowest + 100:
            raise ValueError(
                f"`lowest` is {self.lowest} and `highest` {self.highest}. Give a scale of 2 to 101 "
                f"whole numbers."
            )
        return self


RewardSource = Annotated[
    RewardModelSource
    | LengthSource
    | RegexSource
    | FormatSource
    | RepetitionSource
    | ContainsSource
    | AnswerSource
    | WorldSource
    | PythonSource
    | JudgeSource,
    Field(discriminator="kind"),
]
"""A reward source; `kind` selects the class."""


def _with_unique_names(sources: list[RewardSource]) -> list[RewardSource]:
    if not sources:
        raise ValueError("a reward needs at least one source")
    titles = [source.title for source in sources]
    duplicate = next((title for title in titles if titles.count(title) > 1), None)
    if duplicate is not None:
        raise ValueError(f"two sources are called `{duplicate}`. Give one of them another `name`")
    return [source.model_copy(update={"name": source.title}) for source in sources]


Rewards = Annotated[list[RewardSource], AfterValidator(_with_unique_names)]
"""Sources whose weighted sum is the score, each with a unique name."""


def model_source(folder: str) -> RewardModelSource:
    """The source that `reward_model: folder` is short for."""
    return RewardModelSource(kind="reward_model", model=folder)


def named_sources(
    reward_model: str | None, rewards: list[RewardSource] | None
) -> list[RewardSource]:
    """The sources that the settings of these names give; empty where both are absent."""
    return [model_source(reward_model)] if reward_model is not None else rewards or []
