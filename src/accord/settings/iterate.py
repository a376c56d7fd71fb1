"""Settings of rounds: sample from the current model, judge, train on the verdicts, go on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from accord.errors import SettingsError
from accord.records import Source
from accord.settings.base import Settings, Verbatim
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
from accord.settings.stages import JudgeSettings
from accord.settings.training import LoraSettings, SftSettings, TrainSettings

ROUND_METHODS: dict[str, type[TrainSettings]] = {
    "dpo": DpoSettings,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
    "rejection_sampling": SftSettings,
}
"""How a round may train on its verdicts, and what each may be told."""

_OURS = {
    "model": "each round trains the model of the round before; the first is `model`",
    "dataset": "each round trains on its own verdicts",
    "output_dir": "each round has a folder in `output_dir`",
    "ref_model": "`reference` says which model is the reference",
    "seed": "each round's seed comes from `seed` and the round",
    "device": "`device` beside `train` holds for sampling too",
    "trust_remote_code": "`trust_remote_code` beside `train` holds for sampling too",
}

_NAMES = dict.fromkeys(("model", "dataset", "output_dir"), "the round's")


class IterateSettings(Settings):
    """Rounds of sampling, judging and training: iterative DPO and its kin, rejection sampling."""

    model: str = Field(description="Model that the first round starts from: a folder or hub name.")
    dataset: str = Field(description="Rows with prompts to sample responses to.")
    output_dir: str = Field(description="Folder for the rounds, rounds.json and the last `model/`.")
    rounds: int = Field(
        3, ge=1, description="Rounds in all. More of them go on from the last one that is finished."
    )
    prompts_per_round: int | None = Field(
        None,
        ge=1,
        description="Prompts of each round, dealt without repetition until all had their turn; by "
        "default all of them in every round.",
    )
    num_responses: int = Field(4, ge=2, description="Responses to each prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Tokens a response may have.")
    temperature: float = Field(1.0, gt=0, description="Divides the logits of the sampled tokens.")
    stop: list[Verbatim] = Field(
        default_factory=list,
        description="Texts that end a response; its last token is that in which one is completed.",
    )
    batch_size: int = Field(512, ge=1, description="Responses written at the same time.")
    max_prompt_length: int | None = Field(
        None, ge=1, description="Longer prompts (in tokens) are not sampled from, and counted."
    )
    sampler: SamplerSettings = Field(
        SamplerSettings(),
        description="What writes the responses; a vLLM server is given each round's adapter, and "
        "needs `train.lora`.",
    )
    judge: JudgeSettings = Field(JudgeSettings(), description="Who compares the responses.")
    form: Literal["best_worst", "pairs", "rankings", "labels"] | None = Field(
        None,
        description="What is kept of a prompt's responses: the best and the worst as a pair, "
        "disjoint pairs, one ranking of all, or (for `kto`) a label each; by default `best_worst`, "
        "and `rankings` for `rejection_sampling`, which needs the best.",
    )
    train: dict[str, Any] = Field(
        default_factory=lambda: {"method": "dpo"},
        description="How each round trains: `method` (dpo, ipo, kto, orpo, simpo or "
        "rejection_sampling, which is SFT on the best of each prompt's responses) and the keys of "
        "that method, such as `learning_rate` and `beta`. With `lora`, later rounds go on with the "
        "first one's adapter.",
    )
    reference: Literal["fixed", "moving"] = Field(
        "fixed",
        description="The reference model of each round: always the first round's start, or each "
        "round's own.",
    )
    keep_data: Literal["round", "all"] = Field(
        "round", description="Train on the round's verdicts, or on those of all rounds so far."
    )
    eval_dataset: str | None = Field(
        None,
        description="Rows with prompts on which each round's model is measured; by default those "
        "of `dataset`.",
    )
    eval_prompts: int = Field(200, ge=1, description="Prompts measured on: the first so many.")
    eval_responses: int = Field(1, ge=1, description="Responses measured to each of them.")
    world: bool = Field(
        False,
        description="Tell the embedded world's true reward where a reward model judges; where the "
        "world's annotators do, it is told anyway.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every round's draws.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
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
        """Whether the method takes a reference model."""
        return issubclass(ROUND_METHODS[self.method], ReferenceSettings)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """That of training, which sampling computes in as well."""
        return self.training(1, **_NAMES).precision

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters that the first round trains, as `train` says."""
        return self.training(1, **_NAMES).lora

    def training(self, number: int, **places: Any) -> TrainSettings:
        """The training settings of a round, with its model, data set, folder, seed, reference.

        With `lora`, later rounds go on with the first one's adapter on the same base, unless
        `train` says otherwise.
        """
        given = {key: value for key, value in self.train.items() if key != "method"}
        shared = {"device": self.device, "trust_remote_code": self.trust_remote_code}
        built = _built(self.method, {**given, **shared, **places})
        lora = built.lora
        if number == 1 or lora is None or "continue_adapter" in lora.model_fields_set:
            return built
        going_on = lora.model_copy(update={"continue_adapter": True})
        return built.model_copy(update={"lora": going_on})

    @field_validator("train")
    @classmethod
    def _a_method_with_its_keys(cls, train: dict[str, Any]) -> dict[str, Any]:
        method = train.get("method", "dpo")
        if method not in ROUND_METHODS:
            near = nearest(str(method), ROUND_METHODS)
            meant = f" Did you mean `{near}`?" if near else ""
            raise ValueError(
                f"there is no method {method!r} for a round.{meant} "
                f"The methods are {listed(ROUND_METHODS)}"
            )
        ours = next((key for key in train if key in _OURS), None)
        if ours is not None:
            raise ValueError(f"`{ours}` can't be set here: {_OURS[ours]}. Remove it")
        try:
            _built(method, {**{k: v for k, v in train.items() if k != "method"}, **_NAMES})
        except SettingsError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return {"method": method, **train}

    @model_validator(mode="after")
    def _what_fits_together(self) -> IterateSettings:
        if self.method == "rejection_sampling" and self.form not in (None, "rankings"):
            raise ValueError(
                f"`form={self.form}` does not tell which response is the best, which "
                "`rejection_sampling` learns from. Leave `form` out."
            )
        if self.form == "labels" and self.method != "kto":
            raise ValueError(
                f"`form=labels` gives single responses, and `{self.method}` learns from "
                "comparisons. Use `train.method=kto`, or leave `form` out."
            )
        if self.sampler.kind == "vllm":
            self._adapters_for_a_server()
        if self.reference == "moving" and not self.has_reference:
            raise ValueError(
                f"`reference=moving` does nothing with `{self.method}`, which has no reference "
                "model. Leave `reference` out."
            )
        return self

    def _adapters_for_a_server(self) -> None:
        if self.lora is None:
            raise ValueError(
                "`sampler.kind=vllm` needs `train.lora`: a server is given each round's adapter, "
                "and could not be given a whole model. Set `train.lora`."
            )
        later = self.training(2, **_NAMES).lora
        if later is None or not later.continue_adapter:
            raise ValueError(
                "`train.lora.continue_adapter=false` merges each round's adapter into its base, "
                "and the vLLM server's base stays as it is. Leave it out."
            )


def _built(method: str, values: dict[str, Any]) -> TrainSettings:
    return build(
        ROUND_METHODS[method],
        LocatedMapping(values, source=Source("in `train`"), label="train"),
        where=method,
    )
