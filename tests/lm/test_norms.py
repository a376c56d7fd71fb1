"""Norms computed in the cache against those of the transformers models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from accord.lm.kernels import norms
from accord.lm.kernels.norms import speed_up_norms
from tests.lm.models import CONFIGS, causal

WITH_NORMS = [name for name in CONFIGS if name not in ("gpt2", "phi")]


def rms_norms(model: Any) -> list[nn.Module]:
    return [m for m in model.modules() if "RMSNorm" in type(m).__name__]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WITH_NORMS)
def test_values_and_gradients_equal_those_of_transformers(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "CHUNK_ELEMENTS", 4 * 32)  # several chunks, the last one smaller
    model = causal(name).to(dtype)
    with torch.no_grad():
        for norm in rms_norms(model):
            norm.weight.uniform_(-1, 1)
    fast = copy.deepcopy(model)
    assert speed_up_norms(fast) == len(rms_norms(model)) > 0
    for plain, replaced in zip(rms_norms(model), rms_norms(fast), strict=True):
        x = torch.randn(2, 7, len(plain.weight), dtype=dtype)
        actual, expected = (x.clone().requires_grad_() for _ in range(2))
        grad = torch.randn_like(x)
        assert torch.equal(replaced(actual), plain(expected))
        replaced(actual).backward(grad)
        plain(expected).backward(grad)
        tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
        for a, b in ((actual.grad, expected.grad), (replaced.weight.grad, plain.weight.grad)):
            assert float((a - b).norm()) <= tolerance * float(b.norm())


def test_norms_of_a_copied_model_use_its_weights() -> None:
    model = causal("llama")
    speed_up_norms(model)
    twin = copy.deepcopy(model)
    x = torch.randn(1, 2, 32)
    with torch.no_grad():
        rms_norms(twin)[0].weight.fill_(3.0)
    torch.testing.assert_close(rms_norms(twin)[0](x), 3.0 * rms_norms(model)[0](x))


class ShiftedRMSNorm(nn.Module):
    """A norm that does more than its name says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) + 0.1


class GatedRMSNorm(nn.Module):
    """Mamba 2's: it takes an optional gate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        if gate is not None:
            x = x * nn.functional.silu(gate)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


@pytest.mark.parametrize("kind", [ShiftedRMSNorm, GatedRMSNorm])
def test_a_norm_of_another_kind_is_not_replaced(kind: type[nn.Module]) -> None:
    assert speed_up_norms(nn.Sequential(kind())) == 0
