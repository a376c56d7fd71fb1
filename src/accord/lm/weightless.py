"""A model without its weights, for what needs only its tokenizer, configuration and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
)

from accord.errors import ModelError
from accord.lm.attention.packed import NAME
from accord.lm.kernels.last_layer import LastLayer
from accord.lm.kernels.norms import speed_up_norms
from accord.lm.load import base_and_adapter, load_tokenizer
from accord.lm.model import LanguageModel, disable_dropout


def load_weightless(path: str, *, trust_remote_code: bool = False) -> LanguageModel:
    """The language model at `path`, a folder or hub name, with weights on the meta device.

    Raises ModelError where tokenizer or configuration can't be loaded.
    """
    base, _ = base_and_adapter(path)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    config = read_config(base, trust_remote_code=trust_remote_code)
    lm = weightless_model(config, path, tokenizer, trust_remote_code=trust_remote_code)
    with suppress(OSError, ValueError):  # there may be none
        lm.model.generation_config = GenerationConfig.from_pretrained(base)
    return lm


def read_config(base: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model folder or hub name. Raises ModelError."""
    try:
        return AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except Exception as error:  # its files are input: the library raises what it runs into
        raise _config_error(base, error) from error


def new_config(architecture: str, values: Mapping[str, Any]) -> Any:
    """The configuration of a model type of transformers. Raises ModelError for an unknown one."""
    try:
        return CONFIG_MAPPING[architecture](**values)
    except Exception as error:
        raise _config_error(architecture, error) from error


def weightless_model(
    config: Any,
    name: str,
    tokenizer: Any,
    *,
    heads: int = 0,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """The model of a configuration on the meta device: a language model, or with `heads` scalar
    heads instead of the vocabulary's. Raises ModelError."""
    auto: Any = AutoModelForSequenceClassification if heads else AutoModelForCausalLM
    if heads:
        config.num_labels = heads
    try:
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _config_error(name, error) from error
    return LanguageModel(disable_dropout(model), tokenizer, name, scalar=bool(heads))


def _config_error(name: str, error: Exception) -> ModelError:
    text = " ".join(str(error).split())[:500]
    return ModelError(
        f"The configuration of {name} can't be used ({type(error).__name__}: {text}). Check "
        "the path of the model."
    )


def as_loaded(lm: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A weightless model with the dtype and the faster parts of one that is loaded
    (`load.finish_loading`), without the checks, which need numbers."""
    lm.model.to(dtype)
    for parameter_name, parameter in lm.model.named_parameters():
        if lm.stays_float32(parameter_name):
            parameter.data = parameter.data.float()
    for module in lm.model.modules():
        if "RMSNorm" in type(module).__name__:  # whether it can be faster is seen from numbers
            module.to_empty(device="cpu")
            for parameter in module.parameters():
                nn.init.uniform_(parameter)
    speed_up_norms(lm.inner)
    lm.inner.to("meta")
    lm.max_length = lm.max_positions
    with suppress(ValueError):
        lm.inner.set_attn_implementation(NAME)
        lm.last_layer = LastLayer(lm.backbone)
    return lm
