"""Settings of a language model that judges, at an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings, UnlessDefault, has_mark

CRITERION = (
    "How well the response does what the prompt asks for: it is helpful, correct, clear and "
    "honest, and neither longer nor shorter than that takes."
)


class TokenPrices(Settings):
    """What a million tokens cost, in any one currency."""

    prompt: float = Field(ge=0, description="Price of a million tokens of prompts.")
    cached: float | None = Field(
        None,
        ge=0,
        description="Price of a million tokens of prompts that the server took from its cache of "
        "prefixes, as it reports them; absent, as `prompt`.",
    )
    answer: float = Field(ge=0, description="Price of a million tokens of answers.")

    def cost(self, prompt: float, cached: float, answer: float) -> float:
        """The cost of tokens; those `cached` are among those of `prompt`."""
        price = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * price + answer * self.answer) / 1e6


class EndpointSettings(Settings):
    """A language model at an OpenAI-compatible endpoint, and the questions that it is asked."""

    base_url: str | None = Field(
        None,
        description="Endpoint: its address, such as http://127.0.0.1:8000/v1 (vLLM) or "
        "http://127.0.0.1:11434/v1 (Ollama).",
    )
    api_key_env: Annotated[str | None, NotIdentity] = Field(
        None,
        description="Endpoint: environment variable that contains its API key, if it has one.",
    )
    criterion: str = Field(
        CRITERION, description="Endpoint: what makes a response good; part of the judge's prompt."
    )
    principles: list[str] = Field(
        default_factory=list,
        description="Endpoint: further principles for the judge, in this order.",
    )
    principles_file: Annotated[str | None, InputPath] = Field(
        None,
        description="Endpoint: a constitution: `helpful`, `harmless` or `honest`, which come with "
        "accord, or a file: YAML with texts or tables (`text`, `id`, `weight`, `critique`, "
        "`revision`) under `principles`, or an instruction file of Constitutional AI (JSON).",
    )
    output: Literal["auto", "json_schema", "text"] = Field(
        "auto",
        description="Endpoint: whether a JSON schema constrains the answers (`response_format`); "
        "`auto` does so unless the server refuses it. Verdicts in plain text are read in any case.",
    )
    temperature: float | None = Field(
        0.0,
        ge=0,
        description="Endpoint: sampling temperature of its answers; absent leaves it to the "
        "server, and so does one that the server refuses.",
    )
    answer_tokens: int = Field(
        512, ge=1, description="Endpoint: maximum tokens of an answer, reasoning included."
    )
    attempts: int = Field(
        3,
        ge=1,
        description="Endpoint: maximum times that a question is asked until the verdict can be "
        "read.",
    )
    timeout: Annotated[float, NotIdentity] = Field(
        120.0, gt=0, description="Endpoint: maximum seconds that an answer may take."
    )
    retries: Annotated[int, NotIdentity] = Field(
        5,
        ge=0,
        description="Endpoint: times that a request is sent again when the connection fails or the "
        "server is busy (408, 429, 5xx, within a 200 too).",
    )
    max_concurrent: Annotated[int, NotIdentity] = Field(
        8, ge=1, description="Endpoint: maximum concurrent requests."
    )
    max_calls: Annotated[int | None, NotIdentity] = Field(
        None,
        ge=1,
        description="Endpoint: calls after which a stage stops with an error; started again, it "
        "resumes with the same number of further calls. Cached answers do not count.",
    )
    max_total_tokens: Annotated[int | None, NotIdentity] = Field(
        None,
        ge=1,
        description="Endpoint: tokens (of prompts and answers, as the server counts them) after "
        "which a stage stops in the same way.",
    )
    price_per_million: Annotated[TokenPrices | None, NotIdentity, UnlessDefault] = Field(
        None, description="Endpoint: what its tokens cost, for forecasts and `max_cost`."
    )
    max_cost: Annotated[float | None, NotIdentity, UnlessDefault] = Field(
        None,
        gt=0,
        description="Endpoint: cost, by `price_per_million`, after which a stage stops in the same "
        "way. Calls under way are ended, so it may be exceeded by their cost.",
    )

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """Without an endpoint its keys are part of the identity, with their defaults: the digests
        of earlier runs include them."""
        if values.get("base_url") is not None:
            return frozenset()
        return frozenset(k for k, field in cls.model_fields.items() if has_mark(field, NotIdentity))

    @field_validator("base_url")
    @classmethod
    def _check_address(cls, base_url: str | None) -> str | None:
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"{base_url!r} is not the address of an endpoint. Write the full address, such as "
                f"http://127.0.0.1:8000/v1"
            )
        return None if base_url is None else base_url.rstrip("/")

    @model_validator(mode="after")
    def _check_principles(self) -> EndpointSettings:
        if self.principles and self.principles_file is not None:
            raise ValueError(
                "`principles` and `principles_file` both give the judge's principles. Keep one."
            )
        return self

    @model_validator(mode="after")
    def _check_cost(self) -> EndpointSettings:
        if self.max_cost is not None and self.price_per_million is None:
            raise ValueError(
                "`max_cost` needs `price_per_million`, such as {prompt: 0.4, cached: 0.1, "
                "answer: 1.6}. Give it, or limit the use by `max_total_tokens`."
            )
        return self
