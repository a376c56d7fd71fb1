"""Where scores come from: the sources of a reward, each with its weight."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from accord.settings.base import Settings
from accord.settings.endpoint import EndpointSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FUNCTION = re.compile(r"(?P<place>[^:]+):(?P<name>[^\W\d]\w*)")

Combine = Literal["mean", "mean_minus_variance", "worst"]


class FlawSettings(Settings):
    """Flaws planted in the simulated annotators, in units of the true reward."""

    length: float = Field(0.0, description="Bonus for each 10 words of a response.")
    flattery: float = Field(0.0, description="Bonus for a response that holds a flattering word.")
    refusal: float = Field(0.0, description="Bonus for a response that refuses.")


class SourceSettings(Settings):
    """What every source of a reward takes."""

    model_config = ConfigDict(str_strip_whitespace=False)  # a blank in a pattern is meant

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
    def _a_name_of_a_metric(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't be a metric's name. Use letters, digits, . - and _")
        return name

    @property
    def title(self) -> str:
        """The name that it is logged by."""
        return self.name or self.kind


class RewardModelSource(SourceSettings):
    """A reward model's normalised score; of several models, or several heads, one combined."""

    kind: Literal["reward_model"] = Field(description="A trained reward model.")
    model: str | list[str] = Field(
        description="Its folder, or the folders of an ensemble; each with a tokenizer of its own."
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
    def _what_fits_together(self) -> RewardModelSource:
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
    tokenizer: str | None = Field(
        None,
        description="Folder or hub name of the tokenizer whose tokens are counted; words, if "
        "absent.",
    )

    @model_validator(mode="after")
    def _limits(self) -> LengthSource:
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
    def _compiles(cls, pattern: str) -> str:
        import regex  # as it is searched with

        try:
            regex.compile(pattern)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern


class FormatSource(SourceSettings):
    """1 for a response that is in a form as a whole, 0 for others."""

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
    def _what_fits_together(self) -> FormatSource:
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
    """1 for a response that holds a text, or does not hold it; 0 for others."""

    kind: Literal["contains"] = Field(description="A text in the response.")
    text: str = Field(description="What is looked for, letter by letter.")
    match: bool = Field(True, description="Whether it must be there, or must not.")
    case_sensitive: bool = Field(False, description="Whether capitals are told from small letters.")

    @field_validator("text")
    @classmethod
    def _something(cls, text: str) -> str:
        if not text:
            raise ValueError("an empty text is in every response. Name what is looked for")
        return text


class AnswerSource(SourceSettings):
    """1 for a response that gives the answer that stands in the prompt's row, 0 for others."""

    kind: Literal["answer"] = Field(description="The right answer, from the row of the prompt.")
    column: str = Field("answer", description="Column of the prompts' rows that holds it.")
    compare: Literal["exact", "contains", "number"] = Field(
        "exact",
        description="The response is the answer but for blanks, holds it, or its last number is "
        "the answer's last.",
    )
    case_sensitive: bool = Field(False, description="Whether capitals are told from small letters.")

    @model_validator(mode="after")
    def _letters_to_compare(self) -> AnswerSource:
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
    """A function of yours, from prompts and responses to a number for each."""

    kind: Literal["python"] = Field(description="A Python function; its module is run.")
    function: str = Field(
        description="`module:function` or `file.py:function`. Called with the names of its "
        "parameters: `prompts`, `responses` or TRL's `completions`, and columns of the rows."
    )

    @field_validator("function")
    @classmethod
    def _module_and_name(cls, function: str) -> str:
        if not _FUNCTION.fullmatch(function):
            raise ValueError(f"{function!r} names no function. Write module:function, such as r:f")
        return function

    @property
    def place(self) -> str:
        """The module or file."""
        return self.function.partition(":")[0]

    @property
    def called(self) -> str:
        """The function's name in it."""
        return self.function.partition(":")[2]

    @property
    def title(self) -> str:
        """Its name, or the function's."""
        return self.name or (self.called if _NAME.fullmatch(self.called) else self.kind)


class JudgeSource(EndpointSettings, SourceSettings):
    """A score on a fixed scale, in whole numbers, from a language model that is asked for it."""

    kind: Literal["judge"] = Field(description="A language model that judges, at an endpoint.")
    base_url: str = Field(description=str(EndpointSettings.model_fields["base_url"].description))
    model: str = Field(description="Endpoint: the model's name there.")
    lowest: int = Field(1, description="The score of the worst response.")
    highest: int = Field(10, description="The score of the best response.")
    unreadable: Literal["error", "mean"] = Field(
        "error",
        description="What comes of a response without a score that can be read, or whose question "
        "the server refuses: an error; or the mean of the others to its prompt (of all, where it "
        "has none), counted in `rewards/NAME.unreadable/mean`.",
    )

    @model_validator(mode="after")
    def _a_scale(self) -> JudgeSource:
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
"""A source of a reward; its `kind` says which."""


def _named(sources: list[RewardSource]) -> list[RewardSource]:
    if not sources:
        raise ValueError("a reward needs at least one source")
    titles = [source.title for source in sources]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise ValueError(f"two sources are called `{twice}`. Give one of them a `name` of its own")
    return [source.model_copy(update={"name": source.title}) for source in sources]


Rewards = Annotated[list[RewardSource], AfterValidator(_named)]
"""Sources whose weighted sum is the score, each with a name that no other has."""


def model_source(folder: str) -> RewardModelSource:
    """The source that `reward_model: folder` is short for."""
    return RewardModelSource(kind="reward_model", model=folder)
