"""Settings of the engine that samples responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings, UnlessDefault, Verbatim

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


_SERVER_KEYS = ("url", "model", "timeout", "retries", "restart_timeout", "api_key_env")
_COLOCATED_KEYS = ("gpu_memory_utilization", "sleep_level")


class SamplerSettings(Settings):
    """The engine that samples responses."""

    kind: Literal["local", "vllm"] = Field(
        "local", description="The loaded model itself, or vLLM with the same model."
    )
    mode: Annotated[Literal["server", "colocate"], UnlessDefault] = Field(
        "server",
        description="vLLM: a server at `url`, or (colocate) an engine in accord's own process, on "
        "the same device, which gets the policy's weights without a file.",
    )
    url: Annotated[str | None, NotIdentity] = Field(
        None, description="vLLM server: its address, such as http://127.0.0.1:8000."
    )
    # vLLM names a model after its folder, unless the server is started with another name.
    model: Annotated[str | None, InputPath] = Field(
        None, description="vLLM server: the model's name there; by default the only one it serves."
    )
    timeout: Annotated[float, NotIdentity] = Field(
        600.0, gt=0, description="vLLM server: maximum seconds that an answer may take."
    )
    retries: Annotated[int, NotIdentity] = Field(
        3,
        ge=0,
        description="vLLM server: times that a request is sent again when the connection fails.",
    )
    restart_timeout: Annotated[float, NotIdentity] = Field(
        300.0,
        ge=0,
        description="vLLM server: seconds to wait for one that went down during a run; once it is "
        "started again, it gets the newest weights and the requests that it did not answer.",
    )
    api_key_env: Annotated[str | None, NotIdentity] = Field(
        None,
        description="vLLM server: environment variable that contains its API key, if it has one.",
    )
    gpu_memory_utilization: Annotated[float, NotIdentity] = Field(
        0.3,
        gt=0,
        lt=1,
        description="vLLM with `mode=colocate`: share of the device's memory for its weights, keys "
        "and values while it is awake (of the machine's memory on a CPU).",
    )
    sleep_level: Annotated[Literal[0, 1, 2], NotIdentity] = Field(
        2,
        description="vLLM with `mode=colocate`: what it frees while the policy trains. 2: weights, "
        "keys and values; 1: the same, with a copy of the weights in the machine's memory; 0: "
        "nothing. It can't sleep on a CPU.",
    )

    @property
    def is_colocated(self) -> bool:
        """Whether a vLLM engine in accord's own process samples."""
        return self.kind == "vllm" and self.mode == "colocate"

    @property
    def is_server(self) -> bool:
        """Whether a vLLM server samples."""
        return self.kind == "vllm" and self.mode == "server"

    @model_validator(mode="after")
    def _check_engine(self) -> SamplerSettings:
        if self.is_server and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(
                f"kind=vllm needs the server's address in `url`, such as http://127.0.0.1:8000; "
                f"got {self.url!r}. With `mode=colocate` vLLM runs in accord's own process"
            )
        unused: tuple[str, ...]
        if self.kind == "local":
            unused, why = ("mode", *_SERVER_KEYS, *_COLOCATED_KEYS), "the loaded model answers"
            remedy = "Set `kind=vllm`, or leave it out."
        elif self.is_colocated:
            unused, why = _SERVER_KEYS, "vLLM runs in accord's own process"
            remedy = "Set `mode=server`, or leave it out."
        else:
            unused, why = _COLOCATED_KEYS, "the server has settings of its own"
            remedy = "Set `mode=colocate`, or leave it out."
        key = self.changed(*unused)
        if key is not None:
            engine = "kind=local" if self.kind == "local" else f"mode={self.mode}"
            raise ValueError(f"`{key}` does nothing with `{engine}`, where {why}. {remedy}")
        return self
