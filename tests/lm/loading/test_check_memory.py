"""The check that weights are finite needs no copy of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from accord.errors import ModelError
from accord.lm.checks import check_finite_weights

PEAK = Path("/proc/self/clear_refs")
MEGABYTES = 64


def only_embeddings(weight: torch.Tensor) -> SimpleNamespace:
    """A model whose one weight is its embeddings and its head."""
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight = torch.nn.Parameter(weight)
    inner = SimpleNamespace(
        get_input_embeddings=lambda: layer,
        get_output_embeddings=lambda: layer,
        named_parameters=layer.named_parameters,
    )
    return SimpleNamespace(name="toy", inner=inner)


def peak_kilobytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not PEAK.exists(), reason="the peak of a process's memory is reset on Linux")
def test_checking_weights_makes_no_copy_of_them() -> None:
    # 64 MB of float32; a copy in float64 would be 128 MB. Parts are 8 MB; the allocator was seen
    # to hold up to 45 MB for them, and 12 MB at the least.
    lm = only_embeddings(torch.ones(MEGABYTES << 8, 1024))
    PEAK.write_text("5")
    before = peak_kilobytes()
    check_finite_weights(lm)  # type: ignore[arg-type]
    assert peak_kilobytes() - before < 96 << 10


@pytest.mark.parametrize("at", [0, (1 << 20) - 1, 1 << 20, (3 << 20) - 1])
def test_the_check_reads_all_parts_of_a_weight(at: int) -> None:
    weight = torch.zeros(3 << 20)
    weight[at] = float("inf")
    with pytest.raises(ModelError, match=r"1 of 3,145,728 numbers in weight"):
        check_finite_weights(only_embeddings(weight))  # type: ignore[arg-type]


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    # 2 x 3e38 is beyond float32.
    check_finite_weights(only_embeddings(torch.full((4,), 3e38)))  # type: ignore[arg-type]
