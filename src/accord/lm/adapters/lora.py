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
from accord.lm.adapters.switch import POLICY, AdapterSwitch, adapter_name
from accord.lm.model import LanguageModel
from accord.lm.transformers_logging import silence_transformers
from accord.settings.training import LoraSettings

WEIGHTS = "adapter_model.safetensors"


def add_adapters(lm: LanguageModel, settings: LoraSettings, *, seed: int) -> LanguageModel:
    """Freeze the model and add trainable adapters to it; a scalar head remains trainable.

    Raises SettingsError when `target_modules` names no layer of this model.
    """
    try:
        return _wrap_with_adapter(lm, lora_config(settings), seed=seed)
    except ValueError as error:
        raise SettingsError(
            f"lora.target_modules = {settings.target_modules!r} fits no layer of {lm.name}: "
            f"{error}. Use `all-linear`, or names as in the model's state dict."
        ) from error


@torch.no_grad()
def continue_adapter(lm: LanguageModel, path: str, settings: LoraSettings) -> LanguageModel:
    """Freeze a base and load the adapter in a folder onto it, trainable, to continue training it.

    A reward model's head is loaded with its adapter; a language model's adapter leaves the scalar
    head unchanged. Raises SettingsError where the adapter is not LoRA's matrices alone, does not
    fit the base, or differs from the settings.
    """
    reason = why_not_lora(path)
    if reason is not None:
        raise SettingsError(
            f"The adapter in {path} can't continue training: {reason}. Leave lora.continue_adapter "
            f"out, and it is merged into its base."
        )
    config = read_config(path)
    config.inference_mode = False  # peft saves True, which would freeze its matrices
    try:
        lm = _wrap_with_adapter(lm, config, seed=0)
    except ValueError as error:
        raise SettingsError(f"The adapter in {path} does not fit {lm.name}: {error}.") from error
    _check_settings(lm, config, settings, path)
    tensors = load_file(Path(path) / WEIGHTS)
    if lm.scalar and score_weight_name(tensors) not in tensors:
        (head,) = (p for n, p in lm.trainable_parameters().items() if "modules_to_save" in n)
        tensors[score_weight_name(tensors)] = head.clone()
    load_adapter_tensors(lm, POLICY, tensors, path)
    return lm


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The settings as peft's configuration, without dropout."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=settings.target_modules,
    )


def read_config(path: str) -> LoraConfig:
    """The configuration of an adapter in a folder, without task type, saved modules and dropout."""
    config: Any = PeftConfig.from_pretrained(path)
    config.task_type = config.modules_to_save = None
    config.lora_dropout = 0.0
    return config


def why_not_lora(path: str) -> str | None:
    """Why an adapter folder has more or other weights than LoRA's matrices and a scalar head;
    None where it has these alone."""
    folder = Path(path)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return f"it is a {config.get('peft_type')} adapter, and not LoRA"
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
    extra_modules = set(config.get("modules_to_save") or ()) - {"score", "classifier"}
    extra_tensors = [n for n in names if "lora_" not in n and not n.endswith("score.weight")]
    has_bias = config.get("bias", "none") != "none"
    if extra_modules or extra_tensors or has_bias or config.get("target_parameters"):
        return "more than LoRA's matrices and a head was trained"
    return None


def score_weight_name(tensors: dict[str, Tensor]) -> str:
    """The name of a scalar head's weight among an adapter's tensors, or peft's default name."""
    return next((n for n in tensors if n.endswith("score.weight")), "base_model.model.score.weight")


def load_adapter_tensors(
    lm: LanguageModel, adapter: str, tensors: dict[str, Tensor], path: str
) -> None:
    """Copy an adapter's saved tensors into its parameters, each exactly once.

    Raises SettingsError where a tensor has no parameter, or a parameter no tensor.
    """
    parameters = {
        _name_in_file(n, adapter): p
        for n, p in lm.model.named_parameters()
        if adapter_name(n) == adapter
    }
    if set(parameters) != set(tensors):
        odd = sorted(set(parameters) ^ set(tensors))[0]
        raise SettingsError(
            f"The adapter in {path} does not fit its base: {odd} is in one of them only. "
            f"Train it again, or merge it and give the merged folder."
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _name_in_file(name: str, adapter: str) -> str:
    return name.replace(f".modules_to_save.{adapter}", "").replace(f".{adapter}", "")


def _wrap_with_adapter(lm: LanguageModel, config: LoraConfig, *, seed: int) -> LanguageModel:
    config.task_type = TaskType.SEQ_CLS if lm.scalar else TaskType.CAUSAL_LM
    config.modules_to_save = ["score"] if lm.scalar else None
    with torch.random.fork_rng(devices=[]), silence_transformers():
        torch.manual_seed(seed)
        lm.model = get_peft_model(lm.model, config)
    lm.switch, lm.adapter = AdapterSwitch(lm.model), POLICY
    for parameter in lm.trainable_parameters().values():
        parameter.data = parameter.data.float()  # peft leaves a copied scalar head in bf16
    return lm


def _check_settings(
    lm: LanguageModel, config: LoraConfig, settings: LoraSettings, path: str
) -> None:
    """Raise SettingsError where a setting was set to another value than the adapter has."""
    layers = _linear_layers(lm)
    targeted = {name for name in layers if _is_targeted(settings.target_modules, name)}
    adapted = {name for name, has_adapter in layers.items() if has_adapter}
    checks = {
        "r": (settings.r == config.r, str(config.r)),
        "alpha": (settings.alpha == config.lora_alpha, f"{config.lora_alpha:g}"),
        "target_modules": (targeted == adapted, f"{len(adapted)} layers, such as {min(adapted)}"),
    }
    for key, (equal, value) in checks.items():
        if settings.changed(key) is not None and not equal:
            raise SettingsError(
                f"lora.{key}={getattr(settings, key)!r}, but the adapter in {path}, which is to "
                f"continue training, has {value}. Leave lora.{key} out; or leave out "
                f"lora.continue_adapter, and it is merged into its base."
            )


def _linear_layers(lm: LanguageModel) -> dict[str, bool]:
    """The names of all linear layers below the head, and whether an adapter is on each."""
    layers: dict[str, bool] = {}
    for name, layer in lm.inner.named_modules():
        if ".lora_" in name or not name.startswith(f"{lm.inner.base_model_prefix}."):
            continue
        if name.endswith(".base_layer"):
            layers[name.removesuffix(".base_layer")] = True
        elif isinstance(layer, nn.Linear | Conv1D):
            layers.setdefault(name, False)
    return layers


def _is_targeted(target_modules: str | list[str], layer: str) -> bool:
    """Whether peft puts an adapter on this layer under these `target_modules`."""
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
