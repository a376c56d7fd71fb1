"""Settings of a language model that judges, at an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from accord.settings.base import Settings

CRITERION = (
    "How well the response does what the prompt asks for: it is helpful, correct, clear and "
    "honest, and neither longer nor shorter than that takes."
)

REACHED = frozenset("api_key_env timeout retries max_concurrent max_calls max_total_tokens".split())
"""Keys that say how an endpoint is reached and at what cost, not what is asked or answered."""


class EndpointSettings(Settings):
    """A language model at an OpenAI-compatible endpoint, and what it is asked."""

    base_url: str | None = Field(
        None,
        description="Endpoint: its address, such as http://127.0.0.1:8000/v1 (vLLM) or "
        "http://127.0.0.1:11434/v1 (Ollama).",
    )
    api_key_env: str | None = Field(
        None,
        description="Endpoint: environment variable that holds its key, if it has one.",
    )
    criterion: str = Field(
        CRITERION, description="Endpoint: what makes a response good, as the judge is told."
    )
    principles: list[str] = Field(
        default_factory=list,
        description="Endpoint: principles that the judge goes by besides, in the order given.",
    )
    principles_file: str | None = Field(
        None,
        description="Endpoint: a YAML file of principles, under the key `principles`: texts, or "
        "tables with `text`, `id` and `weight`.",
    )
    output: Literal["auto", "json_schema", "text"] = Field(
        "auto",
        description="Endpoint: whether an answer is held to a JSON schema (`response_format`); "
        "`auto` does without where the server refuses it. Verdicts in text are read in any case.",
    )
    temperature: float | None = Field(
        0.0,
        ge=0,
        description="Endpoint: temperature of its answers; absent leaves it to the server.",
    )
    answer_tokens: int = Field(
        512, ge=1, description="Endpoint: tokens that an answer may have, reasoning and all."
    )
    attempts: int = Field(
        3, ge=1, description="Endpoint: times that a question is put until the verdict can be read."
    )
    timeout: float = Field(120.0, gt=0, description="Endpoint: seconds that an answer may take.")
    retries: int = Field(
        5,
        ge=0,
        description="Endpoint: times that a request is sent again when the line fails or the "
        "server is busy (429, 5xx).",
    )
    max_concurrent: int = Field(8, ge=1, description="Endpoint: requests under way at a time.")
    max_calls: int | None = Field(
        None,
        ge=1,
        description="Endpoint: calls after which a stage stops, with an error; it goes on when "
        "started again, with as many more. Kept answers cost none.",
    )
    max_total_tokens: int | None = Field(
        None,
        ge=1,
        description="Endpoint: tokens (of prompts and answers, as the server counts them) after "
        "which a stage stops in the same way.",
    )

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, base_url: str | None) -> str | None:
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"{base_url!r} is no address of an endpoint. Write it whole, such as "
                f"http://127.0.0.1:8000/v1"
            )
        return None if base_url is None else base_url.rstrip("/")

    @model_validator(mode="after")
    def _principles_once(self) -> EndpointSettings:
        if self.principles and self.principles_file is not None:
            raise ValueError(
                "`principles` and `principles_file` both give the judge's principles. Keep one."
            )
        return self


def deciding(value: Any) -> Any:
    """Settings without the keys of REACHED in tables that name an endpoint."""
    if isinstance(value, Mapping):
        left = REACHED if value.get("base_url") is not None else frozenset()
        return {key: deciding(inner) for key, inner in value.items() if key not in left}
    return [deciding(inner) for inner in value] if isinstance(value, list) else value
