"""4-bit weights of a frozen base: which layers have them, and how transformers is asked for them.

NF4 with double quantisation (Dettmers et al. 2023, "QLoRA", sections 3.1 and 3.2): a weight is one of
16 quantiles of a normal distribution times the largest magnitude of its block of 64, and these
magnitudes are 8-bit numbers in blocks of 256 themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from accord.errors import ModelError, SettingsError
from accord.settings.memory import QuantizationName

log = logging.getLogger(__name__)

BLOCK, STATE_BLOCK = 64, 256
"""Weights with one scale, and scales with one scale of their own."""
# Heads: their states are few, and errors there go straight into the numbers that are read.
HEADS = ("score", "lm_head", "embed_out")


def quantisation_config(quantization: QuantizationName, dtype: torch.dtype) -> Any:
    """transformers' configuration of 4-bit weights that compute in `dtype`.

    Raises SettingsError where bitsandbytes is missing.
    """
    require_bitsandbytes(f"quantization={quantization}")
    from transformers import BitsAndBytesConfig

    _silence_optional_kernels()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(HEADS),
    )


def require_bitsandbytes(setting: str) -> None:
    """Raise SettingsError where bitsandbytes is not installed or can't be imported."""
    remedy = f"Install it with `pip install 'accord[quantization]'`, or leave {setting} out."
    if find_spec("bitsandbytes") is None:
        raise SettingsError(f"{setting} needs bitsandbytes, which is not installed. {remedy}")
    try:
        _silence_optional_kernels()
        import bitsandbytes  # noqa: F401
    except Exception as error:  # its libraries are loaded, whatever is wrong with them
        text = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{setting} needs bitsandbytes, which can't be imported here "
            f"({type(error).__name__}: {text}). {remedy}"
        ) from error


def _silence_optional_kernels() -> None:
    """bitsandbytes logs a warning where kernels that it could download are not there."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of an unquantised model whose weights `quantization` would hold in 4 bits."""
    kept = {*HEADS, *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    for name, module in model.named_modules():
        is_linear = type(module) is nn.Linear or isinstance(module, Conv1D)
        if is_linear and not kept & set(name.split(".")):
            yield name, module


def packed_bytes(weights: int) -> int:
    """Bytes of a matrix of so many weights in NF4: 4 bits each, and the scales."""
    scales = -(-weights // BLOCK)
    return -(-weights // 2) + scales + 4 * (-(-scales // STATE_BLOCK))


def refuse_merging(path: str) -> SettingsError:
    """The error of an adapter that would have to be merged into 4-bit weights."""
    return SettingsError(
        f"{path} is an adapter, which would be merged into its base; the sum would have to be "
        f"rounded to 4 bits. Set lora.continue_adapter=true to train it further on its base; or "
        f"merge it first (`accord merge`), and name the merged folder."
    )


def finish_quantised(model: Any, name: str) -> None:
    """Make a model's 4-bit layers compute the same with and without gradients.

    Raises ModelError where no layer has 4-bit weights, or the vocabulary's head has them.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise ModelError(
            f"{name}: a {type(model).__name__} has no linear layers that could be held in 4 bits. "
            f"Leave quantization out."
        )
    if any(layer is model.get_output_embeddings() for layer in layers):
        raise ModelError(
            f"{name}: the vocabulary head of a {type(model).__name__} would be held in 4 bits, and "
            f"accord reads log-probs from it. Leave quantization out."
        )
    for layer in layers:
        # On a processor with bf16 matrix units, bitsandbytes' first pass without gradients lays the
        # weights out for a kernel that has no backward pass: later training passes through these
        # layers would have no gradient, in silence.
        layer.support_avx512bf16_for_cpu = False
    held = sum(layer.weight.numel() * 2 for layer in layers)
    total = held + sum(p.numel() for p in model.parameters() if p.is_floating_point())
    log.info(
        "%s: %.0f %% of its weights are held in 4 bits (NF4, double quantisation); embeddings, "
        "norms and heads are not.",
        name,
        100 * held / total,
    )
