"""Settings of the annotation page: what people are asked, about which responses."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from accord.settings.base import InputPath, Settings, Verbatim


class TestQuestion(Settings):
    """A question of the test on the guideline."""

    question: str = Field(min_length=1, description="What is asked.")
    answers: list[str] = Field(
        min_length=2, max_length=8, description="The answers to choose from."
    )
    correct: int = Field(ge=1, description="The number of the right answer, from 1.")

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if self.correct > len(self.answers):
            raise ValueError(
                f"correct is {self.correct}, but there are {len(self.answers)} answers: "
                f"give a number from 1 to {len(self.answers)}"
            )
        return self


class ChatSettings(Settings):
    """The model that people of a red team talk with: a folder or hub name, or a model at an
    OpenAI-compatible endpoint."""

    model: Annotated[str, InputPath] = Field(
        min_length=1, description="The model's folder or hub name, or its name at the endpoint."
    )
    model_name: str | None = Field(
        None, min_length=1, description="Its name in the store; by default the model's or folder's."
    )
    base_url: str | None = Field(
        None, description="The endpoint's address, such as http://127.0.0.1:8000/v1."
    )
    api_key_env: str | None = Field(
        None, description="Endpoint: environment variable that contains its API key, if it has one."
    )
    system: Verbatim | None = Field(None, description="A system prompt before every conversation.")
    max_new_tokens: int = Field(512, ge=1, description="Maximum tokens of an answer.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    timeout: float = Field(
        120.0, gt=0, description="Endpoint: maximum seconds that an answer may take."
    )
    retries: int = Field(
        2, ge=0, description="Endpoint: times that a request is sent again when it fails."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where a local model runs.")

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.base_url is not None:
            if not self.base_url.startswith(("http://", "https://")):
                raise ValueError(
                    f"{self.base_url!r} is not the address of an endpoint. Write the full address, "
                    "such as http://127.0.0.1:8000/v1"
                )
            key = self.changed("device")
        else:
            key = self.changed("api_key_env", "timeout", "retries")
        if key is not None:
            where = "a model on this machine" if self.base_url else "an endpoint, with `base_url`"
            raise ValueError(f"`{key}` belongs to {where}. Leave it out.")
        return self


class AnnotateSettings(Settings):
    """What people are asked by `accord annotate`, and about which responses of the store."""

    name: str = Field(
        "main",
        min_length=1,
        max_length=100,
        description="Name of the queue of items; another name is another task on the same store.",
    )
    task: Literal["pairs", "rankings", "labels", "redteam"] = Field(
        "pairs",
        description="Compare two responses, rank several, or label each as good or bad; or talk "
        "with a model and say what broke (a red team).",
    )
    chat: ChatSettings | None = Field(None, description="Of a red team: the model to talk with.")
    size: int = Field(
        4,
        ge=2,
        le=8,
        description="Of rankings: how many responses to rank at most; a prompt with more has "
        "several items.",
    )
    items: Literal["all", "escalated"] = Field(
        "all",
        description="Of pairs: all of them, or only those that `accord label --escalate` handed "
        "over, which come first in any case.",
    )
    models: list[str] = Field(
        [], description="The models whose responses are judged; empty for all models."
    )
    overlap: int = Field(1, ge=1, le=100, description="Votes for each item, by different people.")
    round: int = Field(0, ge=0, description="Round that the verdicts belong to.")
    question: str | None = Field(
        None, description="What is asked where there are no criteria; by default, what is better."
    )
    criteria: dict[str, str] = Field(
        {},
        description="Criteria that are judged one by one: a name, and the question that is asked.",
    )
    strength: bool = Field(True, description="Of pairs: ask how much better, from 1 to 3.")
    tags: list[str] = Field([], max_length=12, description="Reasons that can be ticked.")
    guidelines: Annotated[str | None, InputPath] = Field(
        None, description="A Markdown file that is shown beside the items."
    )
    test: list[TestQuestion] = Field(
        [], description="Questions on the guideline that must be answered before the first item."
    )
    checks: Annotated[str | None, InputPath] = Field(
        None,
        description="Attention checks: a data set of comparisons whose winner is obvious. Neither "
        "they nor the answers to them become training data.",
    )
    check_every: int = Field(20, ge=2, description="One in so many items is an attention check.")
    gold: str | None = Field(
        None,
        description="An annotator of the store whose verdicts are right: people's agreement with "
        "them is measured on the same items.",
    )
    lease_minutes: float = Field(
        15,
        gt=0,
        le=24 * 60,
        description="After so many minutes without a sign from the page, an item goes to someone "
        "else.",
    )
    words_per_second: float = Field(
        15, gt=0, description="A vote is flagged as fast where it means faster reading than this."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the order in which responses stand.")

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.test and self.guidelines is None:
            raise ValueError("test has questions but there are no guidelines: give guidelines too")
        if self.question is not None and self.criteria:
            raise ValueError(
                "question is not asked where there are criteria: leave one of them out"
            )
        if (self.task == "redteam") != (self.chat is not None):
            raise ValueError(
                "a red team talks with a model: give chat.model, a folder or with chat.base_url a "
                "model at an endpoint"
                if self.chat is None
                else "chat is for task=redteam: set that too, or leave chat out"
            )
        if self.task == "redteam":
            key = self.changed(
                *("size", "models", "overlap", "question", "criteria", "strength"),
                *("checks", "check_every", "gold", "lease_minutes", "words_per_second"),
            )
            if key is not None:
                raise ValueError(f"{key} has no meaning for task=redteam: leave it out")
        if self.items == "escalated" and self.task != "pairs":
            raise ValueError("items=escalated are pairs: set task=pairs, or leave items out")
        if self.checks is not None and self.task == "labels":
            raise ValueError("checks are comparisons, which labels have none of: leave checks out")
        return self
