"""4-bit weights of a frozen base: which layers have them, and how transformers is asked for them.

NF4 with double quantisation (Dettmers et al. 2023, "QLoRA", section 3): a weight is one of 16
quantiles of a normal distribution times the largest magnitude of its block of 64, and these
magnitudes are 8-bit numbers in blocks of 256 themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.errors import ModelError, SettingsError
from accord.settings.memory import QuantizationName

log = logging.getLogger(__name__)

BLOCK, STATE_BLOCK = 64, 256
"""Weights with one scale, and scales with one scale of their own."""
CHECKED = 1 << 22  # weights of a layer whose numbers are compared
# Heads: their states are few, and errors there go straight into the numbers that are read.
HEADS = ("score", "lm_head", "embed_out")


def quantisation_config(quantization: QuantizationName, dtype: torch.dtype) -> Any:
    """transformers' configuration of 4-bit weights that compute in `dtype`.

    Raises SettingsError where bitsandbytes is missing.
    """
    require_bitsandbytes(f"quantization={quantization}")
    from transformers import BitsAndBytesConfig

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
        import bitsandbytes  # noqa: F401
    except Exception as error:  # its libraries are loaded, whatever is wrong with them
        text = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{setting} needs bitsandbytes, which can't be imported here "
            f"({type(error).__name__}: {text}). {remedy}"
        ) from error


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of an unquantised model, with adapters or without, whose weights `quantization`
    would hold in 4 bits."""
    excluded = {*HEADS, "lora_A", "lora_B", *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    for name, module in model.named_modules():
        is_linear = type(module) is nn.Linear or isinstance(module, Conv1D)
        if is_linear and not excluded & set(name.split(".")):
            yield name, module


def packed_bytes(weights: int) -> int:
    """Bytes of a matrix of so many weights in NF4: 4 bits each, and the scales."""
    scales = -(-weights // BLOCK)
    return -(-weights // 2) + scales + 4 * (-(-scales // STATE_BLOCK))


def is_4bit(module: nn.Module) -> bool:
    """Whether a layer is one of bitsandbytes' with a 4-bit weight; peft's layer around one is not,
    though it shows the same weight."""
    return is_4bit_weight(module._parameters.get("weight"))


def is_4bit_weight(weight: Any) -> bool:
    """Whether a parameter holds 4-bit codes, with their scales beside it."""
    return getattr(weight, "quant_state", None) is not None


def weight_bytes(weight: Any) -> int:
    """Bytes of a 4-bit weight with its scales, as `packed_bytes` computes them."""
    state = weight.quant_state
    return sum(t.numel() * t.element_size() for t in (weight, state.absmax, state.state2.absmax))


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
    layers: list[Any] = [module for module in model.modules() if is_4bit(module)]
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
    _log_share(model, layers, name)


def _log_share(model: Any, layers: Sequence[Any], name: str) -> None:
    """Log how much of a model is held in 4 bits: a small part saves little."""
    four_bit = sum(layer.weight.numel() * 2 for layer in layers)
    others = [p for p in model.parameters() if p.is_floating_point()]
    total = four_bit + sum(p.numel() for p in others)
    experts = sum(p.numel() for p in others if p.ndim > 2)
    log.info(
        "%s: %.0f %% of its weights are held in 4 bits; embeddings, norms and heads are not.",
        name,
        100 * four_bit / total,
    )
    if experts > four_bit:
        log.warning(
            "%s: %.0f %% of its weights are those of experts, which a %s holds as one tensor of "
            "three dimensions: they are not quantised, so quantization saves little.",
            name,
            100 * experts / total,
            type(model).__name__,
        )


def quantised_state(layer: Any) -> tuple[Tensor, ...]:
    """All tensors that a 4-bit layer's weight consists of: its codes, and their scales."""
    state = layer.weight.quant_state
    codes = layer.weight.detach().as_subclass(torch.Tensor)
    return codes, state.absmax, state.state2.absmax, state.offset


def expanded(layer: Any, count: int) -> Tensor:
    """The first `count` numbers that a 4-bit layer's weight stands for, flat, in float32: a code's
    quantile times the scale of its block, which is a quantile times a scale, plus their mean."""
    codes, scales, outer, offset = quantised_state(layer)
    state = layer.weight.quant_state
    blocks = scales[: -(-count // BLOCK)]
    plain = state.state2.code[blocks.long()] * outer.repeat_interleave(STATE_BLOCK)[: len(blocks)]
    plain = plain + offset
    pairs = codes.view(-1)[: -(-count // 2)]
    both = torch.stack([pairs >> 4, pairs & 15], 1).view(-1)[:count]
    return state.code[both.long()] * plain.repeat_interleave(BLOCK)[:count]


@torch.no_grad()
def check_numbers(model: Any, name: str) -> None:
    """Raise ModelError where bitsandbytes computes with other numbers than the codes stand for.

    Its kernel for CPUs does so where the rows of a matrix are no whole number of blocks. One layer
    of each shape is looked at.
    """
    from bitsandbytes.functional import dequantize_4bit

    layers = {m.weight.quant_state.shape: (n, m) for n, m in model.named_modules() if is_4bit(m)}
    for shape, (layer_name, layer) in layers.items():
        count = min(CHECKED, shape[0] * shape[1])
        expected = expanded(layer, count)
        state = layer.weight.quant_state
        actual = dequantize_4bit(layer.weight.detach(), state).reshape(-1)[:count].float()
        if not torch.allclose(actual, expected, rtol=1e-2, atol=1e-6):
            whole = "" if shape[1] % BLOCK == 0 else f", no multiple of {BLOCK}"
            raise ModelError(
                f"{name}: bitsandbytes computes with other numbers than it has stored in "
                f"{layer_name}, whose rows have {shape[1]} weights{whole}. Leave quantization out; "
                f"on a CUDA device it may be right."
            )


def holds(layer: Any, saved: Tensor) -> bool:
    """Whether a 4-bit layer's weight is what quantising a saved matrix gives, to the bit."""
    from bitsandbytes.functional import quantize_4bit

    state = layer.weight.quant_state
    if issubclass(layer.source_cls, Conv1D):  # saved transposed
        saved = saved.T
    if saved.shape != state.shape:
        return False
    codes, quantised = quantize_4bit(
        saved.to(layer.weight.device, state.dtype).contiguous(),
        blocksize=state.blocksize,
        compress_statistics=True,
        quant_type=state.quant_type,
    )
    tensors = (codes, quantised.absmax, quantised.state2.absmax, quantised.offset)
    return all(map(torch.equal, quantised_state(layer), tensors))
