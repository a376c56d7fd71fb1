"""Settings of what writes responses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from accord.settings.base import Settings


class SamplerSettings(Settings):
    """The engine that writes responses."""

    kind: Literal["local", "vllm"] = Field(
        "local", description="The loaded model itself, or a vLLM server with the same model."
    )
    url: str | None = Field(
        None, description="vLLM: the server's address, such as http://127.0.0.1:8000."
    )
    model: str | None = Field(
        None, description="vLLM: the model's name there; by default the only one it serves."
    )
    timeout: float = Field(600.0, gt=0, description="vLLM: seconds that an answer may take.")
    retries: int = Field(
        3, ge=0, description="vLLM: times that a request is sent again when the line fails."
    )
    api_key_env: str | None = Field(
        None, description="vLLM: environment variable that holds the server's key, if it has one."
    )

    @model_validator(mode="after")
    def _address(self) -> SamplerSettings:
        if self.kind == "vllm" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(
                f"kind=vllm needs the server's address in `url`, such as http://127.0.0.1:8000; "
                f"got {self.url!r}"
            )
        if self.kind == "local":
            key = self.changed("url", "model", "timeout", "retries", "api_key_env")
            if key is not None:
                raise ValueError(
                    f"`{key}` does nothing with `kind=local`, where the loaded model answers "
                    "itself. Set `kind=vllm`, or leave it out."
                )
        return self
