"""Root-mean-square norms (Zhang and Sennrich 2019) on a CPU, a few rows at a time.

The norm of a transformers model passes over all its rows in float32 once per operation, and most
of its time is spent waiting for memory. Here a few rows go through all operations while they are in
the cache. The forward numbers are equal to the bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 1 << 18  # numbers computed at a time, whose float32 copies stay in the cache


@dataclass(frozen=True, slots=True)
class NormForm:
    """How a norm scales: by w, or by 1 + w (`unit_offset`); in float32 or in the input's type."""

    unit_offset: bool
    in_float32: bool


# Llama's, gpt-oss's, Gemma's.
FORMS = (NormForm(False, False), NormForm(False, True), NormForm(True, True))


def speed_up_norms(model: nn.Module) -> int:
    """Let the norms of a model on a CPU compute in the cache; returns how many do.

    A norm is replaced only where the replacement gives equal numbers to the bit, in both
    precisions.
    """
    count = 0
    for module in model.modules():
        if "RMSNorm" not in type(module).__name__ or not _is_plain_norm(module):
            continue
        form = next((form for form in FORMS if _has_form(module, form)), None)
        if form is not None:
            module.norm_form = form  # type: ignore[assignment]
            module.forward = MethodType(_norm_forward, module)  # copied along with the module
            count += 1
    return count


def _is_plain_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and weight.ndim == 1
        and weight.device.type == "cpu"
        and isinstance(_epsilon(module), float)
        and len(list(module.parameters())) == 1
        and len(inspect.signature(module.forward).parameters) == 1  # a gated norm takes more
    )


def _epsilon(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


@torch.no_grad()
def _has_form(module: Any, form: NormForm) -> bool:
    before, generator = module.weight.data, torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, len(before), generator=generator)
    # New weights are often all ones or zeros, with which different forms give equal numbers.
    weight = torch.rand(len(before), generator=generator)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            module.weight.data = weight.to(dtype)
            replaced = _Norm.apply(x.to(dtype), module.weight, _epsilon(module), form)
            if not torch.equal(module(x.to(dtype)), replaced):
                return False
    except (TypeError, RuntimeError):
        return False
    finally:
        module.weight.data = before
    return True


def _norm_forward(self: Any, x: Tensor) -> Tensor:
    out: Tensor
    if not torch.is_grad_enabled() and x.numel() <= CHUNK_ELEMENTS:  # a decoding step
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _write_norm(out, x, self.weight, _epsilon(self), self.norm_form)
        return out
    out = _Norm.apply(x, self.weight, _epsilon(self), self.norm_form)
    return out


class _Norm(torch.autograd.Function):
    """y = w∘x̂ with x̂ = r·x and r = 1/√(mean(x²) + ε); in Gemma's form (1 + w)∘x̂.

    dx = r·(u − x̂·mean(u∘x̂)) with u = w∘dy, and dw = Σ dy∘x̂; x (…, D), w (D,).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, form: NormForm) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        scales = []
        for rows, target in _row_chunks(x, out):
            scales.append(_write_norm(target, rows, weight, epsilon, form))
        ctx.save_for_backward(x, weight, torch.cat(scales))
        ctx.form = form
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, scales = ctx.saved_tensors
        factor = _factor(weight, ctx.form)
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        dw = torch.zeros_like(factor)
        chunks = zip(_row_chunks(x, dx, grad), scales.split(_chunk_rows(x)), strict=True)
        for (rows, target, dy), scale in chunks:
            unit, dy = rows.float() * scale, dy.float()
            dw += (dy * unit).sum(0)
            u = dy * factor
            inner = (u * unit).mean(-1, keepdim=True)
            target.copy_(u.addcmul_(unit, inner, value=-1).mul_(scale))
        return dx, dw.to(weight.dtype), None, None


def _write_norm(out: Tensor, x: Tensor, weight: Tensor, epsilon: Any, form: NormForm) -> Tensor:
    """Write the norm of all rows at once; returns r (…, 1) in float32."""
    wide = x.float()
    scale = wide.pow(2).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    wide = wide * scale
    if form.in_float32:
        out.copy_(wide.mul_(_factor(weight, form)))
    else:
        torch.mul(weight, wide.to(x.dtype), out=out)
    return scale


def _factor(weight: Tensor, form: NormForm) -> Tensor:
    return weight.float() + 1.0 if form.unit_offset else weight.float()


def _row_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    flat = (x.reshape(-1, x.shape[-1]).split(_chunk_rows(x)) for x in tensors)
    return zip(*flat, strict=True)


def _chunk_rows(x: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // x.shape[-1])
