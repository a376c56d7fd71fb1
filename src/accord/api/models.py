"""Load or take over a model, and prepare it as the start of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from accord.errors import SettingsError
from accord.learn.offline.rows import load_starting_model, with_memory_settings
from accord.lm.adapters.lora import add_adapters, lora_settings
from accord.lm.digest import weights_digest
from accord.lm.in_memory import add_scalar_head, full_precision_and_trainable, wrap_model
from accord.lm.load import Device, load_causal, load_scalar
from accord.lm.model import LanguageModel, Precision
from accord.settings.reading.load import build
from accord.settings.training import LoraSettings, RewardSettings, TrainSettings

Model = Any
"""A path, a hub name, a LanguageModel, or a loaded transformers or peft model."""


def load_model(
    name: str | Path,
    *,
    lora: LoraSettings | Mapping[str, Any] | bool | None = None,
    reward: bool = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    trainable: bool = True,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model, or with `reward` a reward model, from a folder or hub name.

    An adapter folder is merged into its base. `lora` freezes the model and adds new adapters,
    drawn from `seed`. `trainable` False loads the weights of `precision="bf16"` in half the
    memory, for sampling and scoring. Raises ModelError where the folder can't be loaded.
    """
    adapters = as_lora(lora)
    load = load_scalar if reward else load_causal
    lm = load(
        str(name),
        precision=precision,
        device=device,
        trust_remote_code=trust_remote_code,
        trainable=trainable and adapters is None,
    )
    if not trainable:
        lm.model.requires_grad_(False)
    return lm if adapters is None else add_adapters(lm, adapters, seed=seed)


def as_lora(lora: LoraSettings | Mapping[str, Any] | bool | None) -> LoraSettings | None:
    """LoRA's settings as a caller passes them: the settings, a table, or True for the defaults."""
    if lora is None or isinstance(lora, LoraSettings):
        return lora
    if isinstance(lora, bool):
        return LoraSettings() if lora else None
    return build(LoraSettings, dict(lora), where="lora")


def inference_model(
    model: Model, *, tokenizer: Any = None, reward: bool = False, device: Device = "auto"
) -> LanguageModel:
    """The model to sample from or to score with; a path is loaded without training state.

    Raises SettingsError where a causal model is passed as a reward model, or the reverse.
    """
    if isinstance(model, str | Path):
        return load_model(model, reward=reward, device=device, trainable=False)
    lm = wrap_model(model, tokenizer)
    check_head(lm, scalar=reward)
    return lm


def check_head(lm: LanguageModel, *, scalar: bool) -> None:
    """Raise SettingsError where the model has the other kind of head."""
    if lm.scalar and not scalar:
        raise SettingsError(
            f"{lm.name} is a reward model, which scores responses; a language model is needed."
        )
    if scalar and not lm.scalar:
        raise SettingsError(
            f"{lm.name} is a language model and has no scalar head. Train one with "
            f"accord.train('reward', …), or load it with accord.load_model(name, reward=True)."
        )


def model_values(
    model: Model, tokenizer: Any, *, identify: bool
) -> tuple[LanguageModel | None, dict[str, Any]]:
    """What to train, loaded if it was, and the settings that describe it.

    A model in memory keeps its precision; an adapter on it is continued. With `identify` its name
    includes a digest of its weights, so that a run is resumed from the same start only.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise SettingsError(
                f"{model} is a path or hub name, and its own tokenizer is used. Leave `tokenizer` "
                f"out, or pass a loaded model with it."
            )
        return None, {"model": str(model)}
    lm = wrap_model(model, tokenizer)
    values: dict[str, Any] = {"model": lm.name, "precision": lm.precision}
    if lm.is_quantised:
        values["quantization"] = "nf4"
    if lm.is_peft:
        values["lora"] = lora_settings(lm).model_dump()
        if not adapters_are_new(lm):
            values["model"] = f"{lm.name} with its adapter in memory"
    if identify:
        values["model"] = f"{lm.name} in memory, sha256 {weights_digest(lm)[:12]}"
    return lm, values


def starting_model(
    lm: LanguageModel | None, settings: TrainSettings, *, scalar: bool
) -> LanguageModel:
    """The model that training starts from, its trainable parameters marked; one in memory is
    trained in place, but a reward model of a causal one is a copy with a head."""
    if lm is None:
        lm = load_starting_model(settings, scalar=scalar)
        lm.unsaved = lm.unsaved or not lm.is_peft
        return lm
    if scalar and not lm.scalar:
        heads = settings.heads if isinstance(settings, RewardSettings) else 1
        lm = add_scalar_head(lm, seed=settings.seed, heads=heads)
    check_head(lm, scalar=scalar)
    lm.precision = settings.precision
    if not lm.is_peft and settings.lora is not None:
        lm = add_adapters(lm, settings.lora, seed=settings.seed)
    elif not lm.is_peft:
        lm = full_precision_and_trainable(lm)
    if lm.recomputes_activations and not settings.gradient_checkpointing:
        lm.disable_gradient_checkpointing()  # of an earlier run on the same model
    return with_memory_settings(lm, settings)


@torch.no_grad()
def adapters_are_new(lm: LanguageModel) -> bool:
    """Whether a peft model still computes what its base does: all its B matrices are zero."""
    matrices = [p for n, p in lm.trainable_parameters().items() if "lora_B" in n]
    return bool(matrices) and not any(bool(matrix.any()) for matrix in matrices)
