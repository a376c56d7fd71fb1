"""Low-rank adapters through peft."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.errors import SettingsError
from accord.lm.adapters.switch import POLICY, AdapterSwitch, adapter_of
from accord.lm.model import LanguageModel
from accord.settings.training import LoraSettings

WEIGHTS = "adapter_model.safetensors"


def add_adapters(lm: LanguageModel, settings: LoraSettings, *, seed: int) -> LanguageModel:
    """Freeze the model and put trainable adapters on it; a scalar head goes on learning.

    Raises SettingsError when `target_modules` names no layer of this model.
    """
    try:
        return _adapted(lm, lora_config(settings), seed=seed)
    except ValueError as error:
        raise SettingsError(
            f"lora.target_modules = {settings.target_modules!r} fits no layer of {lm.name}: "
            f"{error}. Use `all-linear`, or names as in the model's state dict."
        ) from error


@torch.no_grad()
def continue_adapter(lm: LanguageModel, place: str, settings: LoraSettings) -> LanguageModel:
    """Freeze a base and put the adapter in a folder on it, to go on learning as it is there.

    A reward model's head comes with its adapter; under the adapter of a language model a scalar
    head stays as it is. Raises SettingsError where the adapter is not of LoRA's matrices alone,
    does not fit, or is not what the settings say.
    """
    reason = why_not_lora(place)
    if reason is not None:
        raise SettingsError(
            f"The adapter in {place} can't go on learning: {reason}. Leave lora.continue_adapter "
            f"out, and it is merged into its base."
        )
    config = read_config(place)
    config.inference_mode = False  # as it was saved; its matrices would not learn
    try:
        lm = _adapted(lm, config, seed=0)
    except ValueError as error:
        raise SettingsError(f"The adapter in {place} does not fit {lm.name}: {error}.") from error
    _agree(lm, config, settings, place)
    tensors = load_file(Path(place) / WEIGHTS)
    if lm.scalar and score_name(tensors) not in tensors:
        (head,) = (p for n, p in lm.trainable_parameters().items() if "modules_to_save" in n)
        tensors[score_name(tensors)] = head.clone()
    fill(lm, POLICY, tensors, place)
    return lm


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The settings as peft's, without dropout."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=settings.target_modules,
    )


def read_config(place: str) -> LoraConfig:
    """The configuration of an adapter in a folder, as that of adapters alone, without dropout."""
    config: Any = PeftConfig.from_pretrained(place)
    config.task_type = config.modules_to_save = None
    config.lora_dropout = 0.0
    return config


def why_not_lora(place: str) -> str | None:
    """Why an adapter folder does not hold LoRA's matrices, and perhaps a scalar head, alone;
    None where it does."""
    folder = Path(place)
    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if kind.get("peft_type") != "LORA":
        return f"it is a {kind.get('peft_type')} adapter, and not LoRA"
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
    beside = set(kind.get("modules_to_save") or ()) - {"score", "classifier"}
    others = [n for n in names if "lora_" not in n and not n.endswith("score.weight")]
    if beside or others or kind.get("bias", "none") != "none" or kind.get("target_parameters"):
        return "it learned more than LoRA's matrices and its head"
    return None


def score_name(tensors: dict[str, Tensor]) -> str:
    """The name of a scalar head's weight among an adapter's tensors, or what it would be."""
    return next((n for n in tensors if n.endswith("score.weight")), "base_model.model.score.weight")


def fill(lm: LanguageModel, adapter: str, tensors: dict[str, Tensor], place: str) -> None:
    """Copy an adapter's saved tensors into its parameters, each exactly once.

    Raises SettingsError where one of them has no place, or a parameter no tensor.
    """
    own = {n: p for n, p in lm.model.named_parameters() if adapter_of(n) == adapter}
    names = {_saved_name(n, adapter): p for n, p in own.items()}
    if set(names) != set(tensors):
        odd = sorted(set(names) ^ set(tensors))[0]
        raise SettingsError(
            f"The adapter in {place} does not fit its base: {odd} is in one of them only. "
            f"Train it anew, or merge it and name the merged folder."
        )
    for name, parameter in names.items():
        parameter.copy_(tensors[name])


def _saved_name(name: str, adapter: str) -> str:
    return name.replace(f".modules_to_save.{adapter}", "").replace(f".{adapter}", "")


def _adapted(lm: LanguageModel, config: LoraConfig, *, seed: int) -> LanguageModel:
    config.task_type = TaskType.SEQ_CLS if lm.scalar else TaskType.CAUSAL_LM
    config.modules_to_save = ["score"] if lm.scalar else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm.model = get_peft_model(lm.model, config)
    lm.switch, lm.adapter = AdapterSwitch(lm.model), POLICY
    for parameter in lm.trainable_parameters().values():
        parameter.data = parameter.data.float()  # peft leaves a copied scalar head in half
    return lm


def _agree(lm: LanguageModel, config: LoraConfig, settings: LoraSettings, place: str) -> None:
    """Raise SettingsError where a setting was given that is not the adapter's own."""
    layers = _layers(lm)
    wanted = {name for name in layers if _names(settings.target_modules, name)}
    own = {name for name, has_adapter in layers.items() if has_adapter}
    theirs = {
        "r": (settings.r == config.r, str(config.r)),
        "alpha": (settings.alpha == config.lora_alpha, f"{config.lora_alpha:g}"),
        "target_modules": (wanted == own, f"{len(own)} layers, such as {min(own)}"),
    }
    for key, (same, what) in theirs.items():
        if settings.changed(key) is not None and not same:
            raise SettingsError(
                f"lora.{key}={getattr(settings, key)!r}, but the adapter in {place}, which is to "
                f"go on learning, has {what}. Leave lora.{key} out; or leave out "
                f"lora.continue_adapter, and it is merged into its base."
            )


def _layers(lm: LanguageModel) -> dict[str, bool]:
    """The names of all linear layers below the head, and whether an adapter is on each."""
    found: dict[str, bool] = {}
    for name, layer in lm.inner.named_modules():
        if ".lora_" in name or not name.startswith(f"{lm.inner.base_model_prefix}."):
            continue
        if name.endswith(".base_layer"):
            found[name.removesuffix(".base_layer")] = True
        elif isinstance(layer, nn.Linear | Conv1D):
            found.setdefault(name, False)
    return found


def _names(target_modules: str | list[str], layer: str) -> bool:
    """Whether peft takes a layer for one that is meant."""
    if target_modules == "all-linear":
        return True
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, layer) is not None
    return any(layer == t or layer.endswith(f".{t}") for t in target_modules)


def lora_settings(lm: LanguageModel) -> LoraSettings:
    """The settings that describe the LoRA adapter on a peft model, to be continued."""
    config = lm.model.peft_config[POLICY]
    modules = config.target_modules
    return LoraSettings(
        r=config.r,
        alpha=float(config.lora_alpha),
        target_modules=modules if isinstance(modules, str) else sorted(modules),
        continue_adapter=True,
    )
