"""Settings of a judge that compares responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, UnlessDefault
from accord.settings.endpoint import EndpointSettings
from accord.settings.rewards import FlawSettings

LANGUAGE_MODELS = ("endpoint", "local")
"""The kinds of judges that are asked in words."""

ASKED = ("criterion", "principles", "principles_file", "temperature", "answer_tokens", "attempts")
"""What a language model is asked and how it answers, at an endpoint or in process."""


class JudgeSettings(EndpointSettings):
    """The judge that compares responses."""

    kind: Literal["world", "reward_model", "endpoint", "local"] = Field(
        "world",
        description="The embedded world's annotators, a reward model, or a language model: at an "
        "OpenAI-compatible endpoint, or local, in this process. A language model sees each pair in "
        "both orders.",
    )
    model: Annotated[str | None, InputPath] = Field(
        None,
        description="The folder of a reward model or local model, or the model's name at the "
        "endpoint.",
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
    references: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="Language model: a data set with a right answer to each prompt, which it is "
        "shown: the rows that were sampled from, or a file of its own. A prompt without one is not "
        "judged.",
    )
    reference_column: Annotated[str, UnlessDefault] = Field(
        "reference", min_length=1, description="Column of `references` that holds the answer."
    )
    verdict: Annotated[Literal["answer", "probabilities"], UnlessDefault] = Field(
        "answer",
        description="Local: read what it writes, or the probabilities of the letters A and B where "
        "its answer begins, which become the verdict's probability.",
    )
    tie_margin: Annotated[float, UnlessDefault] = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Local, by probabilities: a tie is what is no further from one half.",
    )
    precision: Annotated[Literal["fp32", "bf16"], UnlessDefault] = Field(
        "fp32", description="Local: precision of the model."
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity, UnlessDefault] = Field(
        "auto", description="Local: device to compute on."
    )
    batch_size: Annotated[int, NotIdentity, UnlessDefault] = Field(
        16, ge=1, description="Local: maximum requests in one batch."
    )

    @model_validator(mode="after")
    def _check_local(self) -> JudgeSettings:
        key = self.changed("tie_margin")
        if key is not None and self.verdict != "probabilities":
            raise ValueError(
                f"`{key}` belongs to `verdict=probabilities`. Set that too, or leave it out."
            )
        key = self.changed("verdict", "precision", "device", "batch_size")
        if key is not None and self.kind != "local":
            raise ValueError(f"`{key}` belongs to `kind=local`. Set that too, or leave it out.")
        if self.kind != "local":
            return self
        if self.model is None:
            raise ValueError("`kind=local` needs `model`, the folder of a language model.")
        key = self.changed(*(k for k in EndpointSettings.model_fields if k not in ASKED))
        if key is not None:
            raise ValueError(
                f"`{key}` belongs to `kind=endpoint`, and does nothing with `kind=local`. Leave it "
                f"out."
            )
        if self.temperature is None:
            raise ValueError("`temperature` is a number with `kind=local`: 0 writes the likeliest.")
        key = self.changed("temperature", "answer_tokens", "attempts")
        if key is not None and self.verdict == "probabilities":
            raise ValueError(
                f"`{key}` does nothing with `verdict=probabilities`, for which nothing is written. "
                f"Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> JudgeSettings:
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
        key = self.changed(*EndpointSettings.model_fields, "references", "reference_column")
        if self.kind not in ("endpoint", "local") and key is not None:
            raise ValueError(f"`{key}` belongs to `kind=endpoint`. Set that too, or leave it out.")
        if self.changed("reference_column") and self.references is None:
            raise ValueError("`reference_column` is a column of `references`. Give that too.")
        key = self.changed("noise", "flaws")
        if self.kind != "world" and key is not None:
            raise ValueError(
                f"`{key}` is a setting of the world's annotators, and does nothing with "
                f"`kind={self.kind}`. Leave it out."
            )
        return self
