"""Prepacked weights for bf16 matrix units while a model decodes on a CPU.

A product of few rows with a plain weight spends half its time reordering the weight for the
processor's matrix units (AMX). oneDNN can do that once and cache the copy; the numbers are equal.
Where a layer has the usual form, its products of the same input are one (`fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from accord.lm.kernels.fused import Rotation, fused_forward, fused_linears
from accord.lm.model import LanguageModel
from accord.objectives.logprobs import Head

MAX_BYTES = 1 << 31  # of weights that are copied; a larger model decodes with its plain weights


@contextmanager
def prepacked_linears(lm: LanguageModel, rows: int) -> Iterator[Head]:
    """Within, the model's bf16 linear layers compute with weights prepacked for about `rows` rows.

    Yields the head to use. The weights must not change meanwhile; there is no backward pass. Where
    nothing is gained (another device or precision, a large model) the model is left unchanged.
    """
    head = lm.head
    modules = [
        m
        for m in lm.backbone.modules()
        if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16
    ]
    size = sum(m.weight.numel() * 2 for m in modules) + head.weight.numel() * 2
    if lm.device.type != "cpu" or size > MAX_BYTES or not modules or not has_onednn_bf16():
        yield head
        return
    replaced: dict[nn.Module, Callable[..., Any]] = {}
    with torch.no_grad():
        fused: set[nn.Module] = set()
        rotation, make_linear = Rotation(), partial(_packed_product, rows=rows)
        for module in lm.backbone.modules():
            if "forward" in vars(module):  # somebody else's
                continue
            forward = fused_forward(module, make_linear, rotation)
            if forward is not None:
                replaced[module] = forward
                fused.update(fused_linears(module))
        for module in modules:
            if module not in fused and "forward" not in vars(module):
                replaced[module] = _prepacked_linear(module.weight, module.bias, rows)
    try:
        for module, forward in replaced.items():
            vars(module)["forward"] = forward
        if head.weight.dtype == torch.bfloat16:
            head = replace(head, product=_prepacked_linear(head.weight, None, rows))
        yield head
    finally:
        for module in replaced:
            vars(module).pop("forward", None)


def _prepacked_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """x ↦ x·Wᵀ + b, in bf16 with W reordered once."""
    product, plain = _packed_product(weight, bias, rows), weight.detach()

    def linear(x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return nn.functional.linear(x, plain, bias)
        return product(x)

    return linear


def _packed_product(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """x ↦ x·Wᵀ + b of bf16 inputs, with W reordered once; W itself is not retained."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def product(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return out

    return product


def has_onednn_bf16() -> bool:
    """Whether this build of torch has oneDNN, and the processor bf16 matrix products."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
