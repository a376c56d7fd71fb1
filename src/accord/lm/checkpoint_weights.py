"""A model's weights one by one, under the names of its checkpoint, with its adapter added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

from accord.errors import SettingsError
from accord.lm.adapters.switch import POLICY
from accord.lm.loading.quantised import is_4bit_weight
from accord.lm.model import LanguageModel

BASE = ".base_layer"  # what peft calls the layer that it has wrapped
SUMS = (lora.Linear, lora.Embedding)  # of a Conv1D too
SUMS_IN_FEW_BITS = ("Linear4bit", "Linear8bitLt")  # there with bitsandbytes alone


@torch.no_grad()
def checkpoint_weights(lm: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as save_pretrained would write them, each tied weight once.

    A weight without an adapter is the model's own tensor, and no copy. One with an adapter is a new
    tensor W + ΔW, so nothing of the model changes and only one sum is in memory at a time; a weight
    in 4 bits is expanded. Where the architecture makes one tensor of several of its checkpoint, all
    sums are in memory together. Raises SettingsError for an adapter that is no such sum.
    """
    inner = lm.inner
    weights = _merged_weights(inner, lm.adapter or POLICY)
    conversions = getattr(inner, "_weight_conversions", None)
    if conversions is None or any(isinstance(c, WeightConverter) for c in conversions):
        yield from revert_weight_conversion(inner, dict(weights)).items()
        return
    for name, tensor in weights:
        yield from revert_weight_conversion(inner, {name: tensor}).items()


def _merged_weights(inner: Any, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """The persistent tensors under the transformers model's own names, without peft's layers."""
    modules = dict(inner.named_modules())
    layers = {name: m for name, m in modules.items() if isinstance(m, BaseTunerLayer)}
    for name, wrapper in layers.items():
        _check_adapter(inner, name, wrapper, adapter)
    seen: set[int] = set()
    for full_name, value in inner.state_dict(keep_vars=True).items():
        owner, _, leaf = full_name.rpartition(".")
        layer = layers.get(owner.removesuffix(BASE)) if owner.endswith(BASE) else None
        is_adapters = layer is None and any(_is_adapters(owner, name) for name in layers)
        # bitsandbytes' scales have the names of the weight that they belong to, which is no module.
        if is_adapters or owner not in modules or value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        tensor = _expanded(value)
        if layer is not None and leaf == "weight":
            tensor = _with_adapter(layer, tensor, adapter)
        yield full_name.replace(BASE, ""), tensor


def _is_adapters(owner: str, layer: str) -> bool:
    """Whether a module belongs to the adapters of a layer, and not to what peft has wrapped."""
    inside = owner == layer or owner.startswith(layer + ".")
    return inside and not f"{owner}.".startswith(f"{layer}{BASE}.")


def _with_adapter(layer: Any, weight: Tensor, adapter: str) -> Tensor:
    """W + ΔW in float32, or W where the adapter is not on this layer."""
    if adapter not in layer.scaling:
        return weight
    return weight.float() + layer.get_delta_weight(adapter).float()


def _check_adapter(inner: Any, name: str, layer: Any, adapter: str) -> None:
    """Raise SettingsError where a layer has an adapter that is more than a sum with its weight."""
    if adapter not in getattr(layer, "scaling", {}):
        return
    if not isinstance(layer, SUMS) and type(layer).__name__ not in SUMS_IN_FEW_BITS:
        raise SettingsError(
            f"The adapter on {name} is not on a linear layer or an embedding, such as those of a "
            f"mixture's experts, and vLLM in accord's process gets sums with the weights of such "
            f"layers alone. Leave the layer out of lora.target_modules, or use sampler.kind=local."
        )
    if layer.lora_bias.get(adapter) or adapter in layer.lora_variant:
        raise SettingsError(
            f"The adapter on {name} is DoRA's, has a bias (lora_bias) or is another variant of "
            f"LoRA: it is no sum with the base's weights, and vLLM in accord's process gets such a "
            f"sum. Train a LoRA adapter, or use sampler.kind=local."
        )
    if layer is inner.get_input_embeddings() and inner.config.get_text_config().tie_word_embeddings:
        raise SettingsError(
            "An adapter on the embeddings, which the vocabulary's head shares, changes one of the "
            "two, and vLLM has a single tensor for both. Leave the embeddings out of "
            "lora.target_modules, or use sampler.kind=local."
        )


def _expanded(value: Tensor) -> Tensor:
    """A tensor without its graph; of 4-bit codes the weights that they stand for."""
    if not is_4bit_weight(value):
        return value.detach()
    from bitsandbytes.functional import dequantize_4bit

    expanded: Tensor = dequantize_4bit(value.detach(), value.quant_state)  # type: ignore[attr-defined]
    return expanded
