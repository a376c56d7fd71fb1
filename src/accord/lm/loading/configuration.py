"""A model's configuration, checked against what accord can compute and the weight files hold."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from accord.errors import ModelError
from accord.lm.loading.folders import CONFIG
from accord.lm.loading.weight_files import TensorHeader, tensor_headers, weight_files
from accord.lm.transformers_logging import silence_transformers

FLOATS = {"F64", "F32", "F16", "BF16"}
_QUANTISED_REMEDY = (
    "accord needs the weights before the quantisation. Name the model that it was made from, with "
    "`quantization: nf4` and `lora` to train on 4-bit weights; or load it in transformers, call "
    "model.dequantize(), and save it with save_pretrained."
)


def read_configuration(path: str, *, trust_remote_code: bool) -> Any:
    """The configuration of a model folder or hub name, as transformers reads it.

    Raises ModelError where it can't be read, or describes no decoder of unquantised weights.
    """
    try:
        with silence_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        # A configuration is input: transformers' classes raise whatever their checks run into.
        raise _unreadable(path, error) from error
    quantised = _quantisation(config.to_dict())
    if quantised:
        raise ModelError(f"{path} is quantised ({quantised}). {_QUANTISED_REMEDY}")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{path} is an encoder-decoder ({config.model_type}), and accord trains decoders, "
            f"which read prompt and response as one text. Name a causal language model, such as "
            f"Llama, Qwen, Gemma or Mistral."
        )
    return config


def check_weights(auto: Any, path: str, config: Any) -> None:
    """Compare what a configuration describes with the headers of a folder's files, before anything
    of its size is allocated. Raises ModelError where they do not fit."""
    headers = tensor_headers(weight_files(Path(path)))
    for name, header in headers.items():
        if header.dtype not in FLOATS and len(header.shape) > 1:
            raise ModelError(
                f"{path}: the tensor {name} is stored as {header.dtype}, so it is quantised. "
                f"{_QUANTISED_REMEDY}"
            )
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and not 0 <= layers <= len(headers):
        raise ModelError(
            f"{path}: {CONFIG} describes {layers:,} layers, and the weight files hold "
            f"{len(headers):,} tensors in all. Copy the configuration again from where the model "
            f"comes from."
        )
    try:
        with silence_transformers(), torch.device("meta"):
            model = auto.from_config(deepcopy(config))
    except Exception as error:
        raise _unreadable(path, error) from error
    expected = sum(p.numel() for p in model.parameters())
    present = sum(header.num_elements for header in headers.values())
    if expected > 2 * present + 1_000_000:
        raise ModelError(
            f"{path}: {CONFIG} describes a {type(model).__name__} of {expected:,} parameters, and "
            f"the weight files hold {present:,}. Copy the configuration, or the files, again from "
            f"where the model comes from."
        )
    _check_shapes(path, model, headers)


def _check_shapes(path: str, model: Any, headers: Mapping[str, TensorHeader]) -> None:
    """Compare the shapes of tensors that have the same name in the model and in the files."""
    # A scalar head's rows are its labels, which the loader compares.
    wrong = [
        (name, tuple(tensor.shape), headers[name].shape)
        for name, tensor in model.state_dict().items()
        if name in headers
        and tuple(tensor.shape) != headers[name].shape
        and not name.startswith("score.")
    ]
    if wrong:
        name, shape, saved = wrong[0]
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise ModelError(
            f"{path}: by {CONFIG} the tensor {name} has the shape {list(shape)}, and in the weight "
            f"files it has {list(saved)}{more}. {_key_hint(model, shape, saved)}Copy the "
            f"configuration again from where the model comes from."
        )


def _key_hint(model: Any, shape: tuple[int, ...], saved: tuple[int, ...]) -> str:
    config = model.config.get_text_config()
    if len(shape) != len(saved):
        return ""
    sizes = {a: b for a, b in zip(shape, saved, strict=True) if a != b}
    keys = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings")
    for key in keys:
        if getattr(config, key, None) in sizes:
            value = getattr(config, key)
            return f"Its {key} is {value:,}, and {sizes[value]:,} would fit. "
    return ""


def _quantisation(values: Mapping[str, Any]) -> str | None:
    """How a configuration's weights are quantised; None where they are not."""
    for key in ("quantization_config", "compression_config"):
        quantised = values.get(key)
        if quantised:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else None
            return str(method or key)
    nested = (v for v in values.values() if isinstance(v, dict))
    return next((method for v in nested if (method := _quantisation(v)) is not None), None)


def _unreadable(path: str, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return ModelError(
            f"{path} comes with code of its own, which accord runs only if you trust it: read it, "
            f"and set trust_remote_code=true."
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return ModelError(
            f"{path} is of an architecture that the installed transformers does not know. "
            f"Upgrade transformers, or name another model. ({text[:200]})"
        )
    if "Unrecognized configuration class" in text:
        kind = text.split("configuration_", 1)[-1].split("'")[0].split(".")[-1].split(">")[0]
        return ModelError(
            f"{path} is of a kind ({kind}) for which transformers has no decoder class with the "
            f"head that is needed here. Name a causal language model, such as Llama, Qwen, Gemma "
            f"or Mistral; of a model for images and text, the text model on its own."
        )
    return ModelError(
        f"{path}: its {CONFIG} makes no model ({type(error).__name__}: {text[:300]}). Copy the "
        f"configuration again from where the model comes from, or correct the value."
    )
