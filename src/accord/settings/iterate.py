"""Settings of rounds: sample from the current model, judge, train on the verdicts, repeat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from accord.errors import SettingsError
from accord.records import Source
from accord.settings.base import (
    InputPath,
    MayGrow,
    NotIdentity,
    Settings,
    SettingsTable,
    Verbatim,
)
from accord.settings.dialogue import DialogueText
from accord.settings.judge import JudgeSettings
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    ReferenceSettings,
    SimpoSettings,
)
from accord.settings.reading.load import build
from accord.settings.reading.located import LocatedMapping
from accord.settings.reading.suggest import listed, nearest
from accord.settings.sampling import SamplerSettings
from accord.settings.training import LoraSettings, SftSettings, TrainSettings
from accord.settings.verdicts import VerdictFilter

ROUND_METHODS: dict[str, type[TrainSettings]] = {
    "dpo": DpoSettings,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
    "rejection_sampling": SftSettings,
}
"""The training methods of a round, with the class of their settings."""

_SET_BY_ROUNDS = {
    "model": "each round trains the model of the round before; the first is `model`",
    "dataset": "each round trains on its own verdicts",
    "output_dir": "each round has a folder in `output_dir`",
    "ref_model": "`reference` says which model is the reference",
    "seed": "each round's seed is derived from `seed` and the round",
    "device": "`device` beside `train` applies to sampling too",
    "trust_remote_code": "`trust_remote_code` beside `train` applies to sampling too",
    "push_to_hub": "every round would upload its model; upload the last with `accord push`",
    "hub_model_id": "every round would upload its model; upload the last with `accord push`",
}
"""Keys that `train` can't set, and what determines them."""

_PLACEHOLDERS = dict.fromkeys(("model", "dataset", "output_dir"), "the round's")


class IterateSettings(Settings):
    """Rounds of sampling, judging and training: iterative preference optimisation, or rejection
    sampling."""

    model: Annotated[str, InputPath] = Field(
        description="Model that the first round starts from: a folder or hub name."
    )
    dataset: Annotated[str, InputPath] = Field(
        description="Rows with prompts to sample responses to."
    )
    output_dir: Annotated[str, NotIdentity] = Field(
        description="Folder for the rounds, rounds.json and the last `model/`."
    )
    dialogue_text: DialogueText = "turns"
    rounds: Annotated[int, MayGrow] = Field(
        3,
        ge=1,
        description="Total number of rounds. Raising it extends a finished run.",
    )
    prompts_per_round: int | None = Field(
        None,
        ge=1,
        description="Prompts of each round, drawn without repetition until all have been used; by "
        "default every round uses all prompts.",
    )
    num_responses: int = Field(4, ge=2, description="Responses to each prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Maximum tokens of a response.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature; divides the logits of the sampled tokens."
    )
    stop: list[Verbatim] = Field(
        default_factory=list,
        description="Texts that end a response; its last token is the one that completes a text.",
    )
    batch_size: int = Field(512, ge=1, description="Responses sampled in one batch.")
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens of a prompt; longer prompts are left out, and their number is "
        "logged.",
    )
    sampler: SamplerSettings = Field(
        SamplerSettings(),
        description="The sampling engine; vLLM gets each round's weights or adapter.",
    )
    judge: JudgeSettings = Field(
        JudgeSettings(), description="The judge that compares the responses."
    )
    form: Literal["best_worst", "pairs", "rankings", "labels"] | None = Field(
        None,
        description="Form of the verdicts on a prompt's responses: the best and the worst as a "
        "pair, disjoint pairs, one ranking of all, or (for `kto`) a label each; by default "
        "`best_worst`, and `rankings` for `rejection_sampling`, which needs the best response.",
    )
    train: Annotated[dict[str, Any], SettingsTable("method", ROUND_METHODS)] = Field(
        default_factory=lambda: {"method": "dpo"},
        description="Training of each round: `method` (dpo, ipo, kto, orpo, simpo or "
        "rejection_sampling, which is SFT on the best of each prompt's responses) and the keys of "
        "that method, such as `learning_rate` and `beta`. With `lora`, later rounds continue the "
        "first round's adapter.",
    )
    reference: Literal["fixed", "moving"] = Field(
        "fixed",
        description="The reference model of each round: the model that the first round starts from "
        "(`fixed`), or the model that the round starts from (`moving`).",
    )
    keep_data: Literal["round", "all"] = Field(
        "round", description="Train on the round's verdicts, or on those of all rounds so far."
    )
    eval_dataset: Annotated[str | None, InputPath] = Field(
        None,
        description="Rows with prompts on which each round's model is evaluated; by default those "
        "of `dataset`.",
    )
    eval_prompts: int = Field(
        200, ge=1, description="Number of evaluation prompts: the first rows of the data set."
    )
    eval_responses: int = Field(1, ge=1, description="Responses to each evaluation prompt.")
    world: bool = Field(
        False,
        description="Report the embedded world's true reward with a reward model as the judge; "
        "with the world's annotators it is reported in any case.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed from which the seed of every round's stages is derived.",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")

    @property
    def method(self) -> str:
        """The key of ROUND_METHODS."""
        method: str = self.train["method"]
        return method

    @property
    def verdicts(self) -> Literal["best_worst", "pairs", "rankings", "labels"]:
        """`form`, or the method's default."""
        if self.form is not None:
            return self.form
        return "rankings" if self.method == "rejection_sampling" else "best_worst"

    @property
    def has_reference(self) -> bool:
        """Whether the method has a reference model."""
        return issubclass(ROUND_METHODS[self.method], ReferenceSettings)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision of training, used for sampling as well."""
        return self.training(1, **_PLACEHOLDERS).precision

    @property
    def filter(self) -> VerdictFilter | None:
        """Which verdicts of each round train, from `train`."""
        return self.training(1, **_PLACEHOLDERS).filter

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters that the first round trains, from `train`."""
        return self.training(1, **_PLACEHOLDERS).lora

    def training(self, number: int, **round_values: Any) -> TrainSettings:
        """The training settings of round `number`, from 1, with the round's own `round_values`:
        its model, data set, folder, seed and reference.

        With `lora`, later rounds continue the first round's adapter on the same base, unless
        `train` sets `lora.continue_adapter`.
        """
        values = {key: value for key, value in self.train.items() if key != "method"}
        shared = {"device": self.device, "trust_remote_code": self.trust_remote_code}
        settings = _build_training(self.method, {**values, **shared, **round_values})
        lora = settings.lora
        if number == 1 or lora is None or "continue_adapter" in lora.model_fields_set:
            return settings
        continued = lora.model_copy(update={"continue_adapter": True})
        return settings.model_copy(update={"lora": continued})

    @field_validator("train")
    @classmethod
    def _check_train(cls, train: dict[str, Any]) -> dict[str, Any]:
        method = train.get("method", "dpo")
        if method not in ROUND_METHODS:
            near = nearest(str(method), ROUND_METHODS)
            suggestion = f" Did you mean `{near}`?" if near else ""
            raise ValueError(
                f"there is no method {method!r} for a round.{suggestion} "
                f"The methods are {listed(ROUND_METHODS)}"
            )
        fixed = next((key for key in train if key in _SET_BY_ROUNDS), None)
        if fixed is not None:
            raise ValueError(f"`{fixed}` can't be set here: {_SET_BY_ROUNDS[fixed]}. Remove it")
        values = {key: value for key, value in train.items() if key != "method"}
        try:
            _build_training(method, {**values, **_PLACEHOLDERS})
        except SettingsError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return {"method": method, **train}

    @model_validator(mode="after")
    def _check_combinations(self) -> IterateSettings:
        if self.method == "rejection_sampling" and self.form not in (None, "rankings"):
            raise ValueError(
                f"`form={self.form}` does not say which response is the best, which "
                "`rejection_sampling` learns from. Leave `form` out."
            )
        if self.form == "labels" and self.method != "kto":
            raise ValueError(
                f"`form=labels` gives single responses, and `{self.method}` learns from "
                "comparisons. Use `train.method=kto`, or leave `form` out."
            )
        if self.sampler.is_server:
            self._check_adapters_for_server()
        if self.reference == "moving" and not self.has_reference:
            raise ValueError(
                f"`reference=moving` does nothing with `{self.method}`, which has no reference "
                "model. Leave `reference` out."
            )
        return self

    def _check_adapters_for_server(self) -> None:
        if self.lora is None:
            return  # the server loads each round's whole model
        later = self.training(2, **_PLACEHOLDERS).lora
        if later is None or not later.continue_adapter:
            raise ValueError(
                "`train.lora.continue_adapter=false` merges each round's adapter into its base, "
                "and the vLLM server's base does not change. Leave it out."
            )


def _build_training(method: str, values: dict[str, Any]) -> TrainSettings:
    return build(
        ROUND_METHODS[method],
        LocatedMapping(values, source=Source("in `train`"), label="train"),
        where=method,
    )
