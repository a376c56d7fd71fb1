"""Settings of the engine that samples responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings, Verbatim

TopP = Annotated[
    float,
    Field(gt=0, le=1, description="Sample from the likeliest tokens with this total probability."),
]
TopK = Annotated[
    int, Field(ge=0, description="Sample from this many likeliest tokens; 0 is all tokens.")
]
MinP = Annotated[
    float,
    Field(ge=0, le=1, description="Leave out tokens less likely than this times the likeliest."),
]
StopTexts = Annotated[
    list[Verbatim],
    Field(description="Texts that end a response; the response is the text before them."),
]


class SamplerSettings(Settings):
    """The engine that samples responses."""

    kind: Literal["local", "vllm"] = Field(
        "local", description="The loaded model itself, or a vLLM server with the same model."
    )
    url: Annotated[str | None, NotIdentity] = Field(
        None, description="vLLM: the server's address, such as http://127.0.0.1:8000."
    )
    # vLLM names a model after its folder, unless the server is started with another name.
    model: Annotated[str | None, InputPath] = Field(
        None, description="vLLM: the model's name there; by default the only one it serves."
    )
    timeout: Annotated[float, NotIdentity] = Field(
        600.0, gt=0, description="vLLM: maximum seconds that an answer may take."
    )
    retries: Annotated[int, NotIdentity] = Field(
        3, ge=0, description="vLLM: times that a request is sent again when the connection fails."
    )
    restart_timeout: Annotated[float, NotIdentity] = Field(
        300.0,
        ge=0,
        description="vLLM: seconds to wait for a server that went down during a run; once it is "
        "started again, it gets the newest weights and the requests that it did not answer.",
    )
    api_key_env: Annotated[str | None, NotIdentity] = Field(
        None,
        description="vLLM: environment variable that contains the server's API key, if it has one.",
    )

    @model_validator(mode="after")
    def _check_engine(self) -> SamplerSettings:
        if self.kind == "vllm" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(
                f"kind=vllm needs the server's address in `url`, such as http://127.0.0.1:8000; "
                f"got {self.url!r}"
            )
        if self.kind == "local":
            key = self.changed(
                "url", "model", "timeout", "retries", "restart_timeout", "api_key_env"
            )
            if key is not None:
                raise ValueError(
                    f"`{key}` does nothing with `kind=local`, where the loaded model answers "
                    "itself. Set `kind=vllm`, or leave it out."
                )
        return self
