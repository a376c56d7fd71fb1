"""Norms in the cache against the models' own."""

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


def norms_of(model: Any) -> list[nn.Module]:
    return [m for m in model.modules() if "RMSNorm" in type(m).__name__]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WITH_NORMS)
def test_values_and_gradients_are_the_models_own(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "CACHED", 4 * 32)  # several parts, the last one smaller
    model = causal(name).to(dtype)
    with torch.no_grad():
        for norm in norms_of(model):
            norm.weight.uniform_(-1, 1)
    fast = copy.deepcopy(model)
    assert speed_up_norms(fast) == len(norms_of(model)) > 0
    for own, ours in zip(norms_of(model), norms_of(fast), strict=True):
        x = torch.randn(2, 7, len(own.weight), dtype=dtype)
        found, expected = (x.clone().requires_grad_() for _ in range(2))
        slope = torch.randn_like(x)
        assert torch.equal(ours(found), own(expected))
        ours(found).backward(slope)
        own(expected).backward(slope)
        rough = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
        for a, b in ((found.grad, expected.grad), (ours.weight.grad, own.weight.grad)):
            assert float((a - b).norm()) <= rough * float(b.norm())


def test_a_copy_of_a_model_has_norms_of_its_own() -> None:
    model = causal("llama")
    speed_up_norms(model)
    twin = copy.deepcopy(model)
    x = torch.randn(1, 2, 32)
    with torch.no_grad():
        norms_of(twin)[0].weight.fill_(3.0)
    torch.testing.assert_close(norms_of(twin)[0](x), 3.0 * norms_of(model)[0](x))


class ShiftedRMSNorm(nn.Module):
    """A norm that does more than its name says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) + 0.1


class GatedRMSNorm(nn.Module):
    """Mamba 2's: it may be given a gate besides."""

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
def test_a_norm_of_another_kind_is_left_alone(kind: type[nn.Module]) -> None:
    assert speed_up_norms(nn.Sequential(kind())) == 0
