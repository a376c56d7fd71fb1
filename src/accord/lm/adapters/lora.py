"""Low-rank adapters through peft."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
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
        lm = _wrap_with_adapter(lm, lora_config(settings), seed=seed)
        _refuse_bypassed_layers(lm, settings)
        return lm
    except ValueError as error:
        raise _target_error(lm, settings, error) from error


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
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in ("gaussian", "orthogonal", "eva"):
        return f"its matrices started from the base's weights ({start}), which changed with them"
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
    _refuse_adapted_head(lm)
    lm.switch, lm.adapter = AdapterSwitch(lm.model), POLICY
    for parameter in lm.trainable_parameters().values():
        parameter.data = parameter.data.float()  # peft leaves a copied scalar head in bf16
    return lm


def _refuse_adapted_head(lm: LanguageModel) -> None:
    """Raise SettingsError for an adapter on the vocabulary head, whose weight is read in chunks
    without calling the layer: it would do nothing."""
    head = lm.inner.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        names = {name.rpartition(".")[2] for name, m in lm.inner.named_modules() if m is head}
        raise SettingsError(
            f"An adapter on the vocabulary head ({', '.join(names)}) of {lm.name} would do "
            f"nothing: log-probs are computed from the head's own weight. Leave it out of "
            f"lora.target_modules; where `model` is an adapter that has one, leave "
            f"lora.continue_adapter out, and it is merged into its base."
        )


def _target_error(lm: LanguageModel, settings: LoraSettings, error: Exception) -> SettingsError:
    """The error of `target_modules` that peft can't use, naming layers that it can."""
    text = " ".join(str(error).split())[:200]
    refused = {"out_proj", "conv1d"} if "incompatible with" in text else set()
    names = {name.rpartition(".")[2] for name in _linear_layers(lm)} - refused - {"dt_proj"}
    advice = f"lora.target_modules=[{', '.join(sorted(names))}]"
    if settings.target_modules != "all-linear" and lm.shares_prefixes:
        advice = f"`all-linear`, or names of its layers, such as {advice}"
    return SettingsError(
        f"lora.target_modules = {settings.target_modules!r} fits no layer of {lm.name}, a "
        f"{type(lm.inner).__name__}, or not all: {text}. Use {advice}."
    )


def _refuse_bypassed_layers(lm: LanguageModel, settings: LoraSettings) -> None:
    """Raise SettingsError for adapters on layers whose weights the model uses without calling
    them, as state-space layers do: these adapters would do nothing, and learn nothing."""
    if lm.shares_prefixes:
        return  # attention models call every layer
    matrices = {n: p for n, p in lm.trainable_parameters().items() if "lora_B" in n}
    ids = torch.tensor([list(range(8))], device=lm.device)
    with lm.precision_context(), torch.enable_grad():
        states = lm.backbone(input_ids=ids, use_cache=False).last_hidden_state
        gradients: Sequence[Tensor | None] = [None] * len(matrices)
        if states.requires_grad:
            gradients = torch.autograd.grad(
                states.float().sum(), list(matrices.values()), allow_unused=True
            )
    used = {_layer_name(n) for n, g in zip(matrices, gradients, strict=True) if g is not None}
    bypassed = sorted({_layer_name(n) for n in matrices} - used)
    if bypassed:
        others = {n.rpartition(".")[2] for n in _linear_layers(lm)} - {*bypassed, "out_proj"}
        raise SettingsError(
            f"lora.target_modules = {settings.target_modules!r} puts adapters on {bypassed[0]} of "
            f"{lm.name}, and a {type(lm.inner).__name__} uses the weights of that layer without "
            f"calling it: they would do nothing. Use lora.target_modules=["
            f"{', '.join(sorted(used or others))}]."
        )


def _layer_name(parameter: str) -> str:
    """The last part of the name of the layer that an adapter's matrix is on."""
    return parameter.split(".lora_")[0].rpartition(".")[2]


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
    prefix = lm.backbone_prefix
    for name, layer in lm.inner.named_modules():
        if ".lora_" in name or not name.startswith(prefix):
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
