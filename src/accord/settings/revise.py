"""The settings of `revise`: critique and revision of responses by a constitution."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings
from accord.settings.dialogue import DialogueText
from accord.settings.endpoint import EndpointSettings
from accord.settings.judge import JudgeSettings

_ENDPOINT = (
    *("base_url", "api_key_env", "timeout", "retries", "max_concurrent"),
    *("max_calls", "max_total_tokens"),
)
_LOCAL = ("batch_size", "precision", "device", "trust_remote_code")
_WRITTEN = ("model", "temperature", "answer_tokens")
_WORLD = ("misses", "false_alarms")


class ReviserSettings(Settings):
    """The model that criticises and revises responses."""

    kind: Literal["local", "endpoint", "world"] = Field(
        "local",
        description="A model in process, a model at an OpenAI-compatible endpoint, or the embedded "
        "world's rules.",
    )
    model: Annotated[str | None, InputPath] = Field(
        None,
        description="The model's folder or hub name, or its name at the endpoint.",
    )
    temperature: float = Field(
        0.7, ge=0, description="Sampling temperature; 0 takes the likeliest token."
    )
    answer_tokens: int = Field(
        512, ge=1, description="Maximum tokens of a critique or revision, reasoning included."
    )
    base_url: str | None = Field(
        None, description="Endpoint: its address, such as http://127.0.0.1:8000/v1."
    )
    api_key_env: Annotated[str | None, NotIdentity] = Field(
        None,
        description="Endpoint: environment variable that contains its API key, if it has one.",
    )
    timeout: Annotated[float, NotIdentity] = Field(
        120.0, gt=0, description="Endpoint: maximum seconds that an answer may take."
    )
    retries: Annotated[int, NotIdentity] = Field(
        5, ge=0, description="Endpoint: times that a request is sent again."
    )
    max_concurrent: Annotated[int, NotIdentity] = Field(
        8, ge=1, description="Endpoint: maximum concurrent requests."
    )
    max_calls: Annotated[int | None, NotIdentity] = Field(
        None, ge=1, description="Endpoint: calls after which the stage stops with an error."
    )
    max_total_tokens: Annotated[int | None, NotIdentity] = Field(
        None, ge=1, description="Endpoint: tokens after which the stage stops in the same way."
    )
    batch_size: int = Field(32, ge=1, description="Local: texts written in one batch.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Local: precision of the model.")
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Local: device to compute on."
    )
    trust_remote_code: bool = Field(
        False, description="Local: run code that comes with a hub model."
    )
    misses: float = Field(
        0.1, ge=0, le=1, description="World: share of faults that the critic does not see."
    )
    false_alarms: float = Field(
        0.1,
        ge=0,
        le=1,
        description="World: share of harmless requests with a dangerous word that the critic takes "
        "for harmful ones.",
    )

    @model_validator(mode="after")
    def _check_kind(self) -> ReviserSettings:
        foreign = {
            "local": (*_ENDPOINT, *_WORLD),
            "endpoint": (*_LOCAL, *_WORLD),
            "world": (*_WRITTEN, *_ENDPOINT, *_LOCAL),
        }
        key = self.changed(*foreign[self.kind])
        if key is not None:
            raise ValueError(f"`{key}` does nothing with `kind={self.kind}`. Leave it out.")
        if self.kind != "world" and self.model is None:
            raise ValueError(f"`kind={self.kind}` needs `model`, which criticises and revises.")
        if self.kind == "endpoint" and self.base_url is None:
            raise ValueError("`kind=endpoint` needs `base_url`, such as http://127.0.0.1:8000/v1.")
        if self.kind == "endpoint":
            self.endpoint()  # checks the address
        return self

    def endpoint(self) -> EndpointSettings:
        """The settings of the client, with answers as plain text."""
        shared = ("temperature", "answer_tokens", *_ENDPOINT)
        return EndpointSettings(output="text", **{key: getattr(self, key) for key in shared})


class ReviseSettings(Settings):
    """Critique and revise responses by the principles of a constitution (Bai et al. 2022)."""

    responses: Annotated[list[str], InputPath] = Field(
        [],
        description="responses.jsonl files of `sample`, or preference stores, whose responses are "
        "revised.",
    )
    dataset: Annotated[str | None, InputPath] = Field(
        None, description="Rows with prompts, in place of `responses`: the reviser answers them."
    )
    dialogue_text: DialogueText = "turns"
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for revisions.jsonl, conversations.jsonl, sft.jsonl, store.db and "
        "revise.json."
    )
    constitution: Annotated[list[str], InputPath] = Field(
        ["harmless"],
        min_length=1,
        description="Constitutions: `helpful`, `harmless`, `honest`, or files (YAML, or the "
        "instruction files of Constitutional AI in JSON).",
    )
    principles: list[str] = Field(
        [], description="Ids of the principles to draw from; by default all of them."
    )
    rounds: int = Field(
        1,
        ge=1,
        lt=1000,
        description="Rounds of critique and revision, each by another principle.",
    )
    reviser: ReviserSettings = Field(
        description="The model that criticises and revises the responses."
    )
    judge: JudgeSettings | None = Field(
        None,
        description="The judge that compares each revision with its original; without it a "
        "revision is no preference.",
    )
    assume_better: bool = Field(
        False,
        description="Without a judge: write each revision as preferred to its original, as "
        "annotator `assumed`.",
    )
    demonstrations: Literal["final", "revisions"] = Field(
        "final",
        description="Rows of sft.jsonl: the accepted revisions, and (`final`) the originals in "
        "which no critique found anything. With a judge, accepted are those that it prefers.",
    )
    max_responses: int | None = Field(
        None, ge=1, description="Use only the first responses, up to this number."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the principles and of sampling.")

    @field_validator("responses", "constitution", "principles", mode="before")
    @classmethod
    def _list_of_names(cls, value: object) -> object:
        """One name is a list of one."""
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_inputs(self) -> ReviseSettings:
        if bool(self.responses) == (self.dataset is not None):
            raise ValueError(
                "`responses` are revised as they are, and the prompts of `dataset` are answered "
                "first. Give one of the two."
            )
        if self.dataset is not None and self.reviser.kind == "world":
            raise ValueError(
                "`reviser.kind=world` revises by rules and answers nothing. Give `responses`, such "
                "as those of `sample`."
            )
        if self.dataset is None and self.changed("dialogue_text"):
            raise ValueError("`dialogue_text` is about the rows of `dataset`. Leave it out.")
        if self.judge is not None and self.assume_better:
            raise ValueError(
                "`assume_better` is for revisions that nobody judges, and there is a `judge`. Keep "
                "one of the two."
            )
        return self
