"""Weights laid out for bf16 matrix units while a model decodes on a CPU.

A product of few rows with a plain weight spends half its time laying the weight out for the
processor's matrix units (AMX). oneDNN can do that once and keep the copy; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from accord.lm.model import LanguageModel
from accord.objectives.logprobs import Head

LARGEST = 1 << 31  # bytes of weights that are copied; a larger model decodes as it is


@contextmanager
def repacked(lm: LanguageModel, rows: int) -> Iterator[Head]:
    """Within, the model's bf16 linear layers compute from copies laid out for about `rows` rows.

    Gives the head to use. The weights must not change meanwhile; there is no backward pass. Where
    there is nothing to gain (another device or precision, a large model) all stays as it is.
    """
    head = lm.head
    modules = [
        m
        for m in lm.backbone.modules()
        if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16
    ]
    size = sum(m.weight.numel() * 2 for m in modules) + head.weight.numel() * 2
    if lm.device.type != "cpu" or size > LARGEST or not modules or not _available():
        yield head
        return
    try:
        for module in modules:
            vars(module)["forward"] = _linear(module.weight, module.bias, rows)
        if head.weight.dtype == torch.bfloat16:
            head = replace(head, product=_linear(head.weight, None, rows))
        yield head
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def _linear(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """x ↦ x·Wᵀ + b in bf16, with W laid out once."""
    own = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    plain = weight.detach()

    def linear(x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return nn.functional.linear(x, plain, bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, own, bias, "none", [], "")
        return out

    return linear


def _available() -> bool:
    """Whether this build of torch has oneDNN's products, and the processor bf16 ones."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
