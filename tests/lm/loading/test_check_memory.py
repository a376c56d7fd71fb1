"""The check that weights are finite needs no copy of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from accord.errors import ModelError
from accord.lm.checks import check_finite_weights

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


def peak_bytes(work: Callable[[], None], trace: Path) -> int:
    """The largest number of bytes of tensors that exist at a time while it works, exactly: as the
    allocator counts them, not the process."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    sizes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return max(itertools.accumulate(sizes))


def test_checking_weights_makes_no_copy_of_them(tmp_path: Path) -> None:
    # 64 MB of float32; a copy in float64 would be 128 MB, and a mask 16 MB. A part is 8 MB.
    lm = only_embeddings(torch.ones(MEGABYTES << 8, 1024))
    peak = peak_bytes(lambda: check_finite_weights(lm), tmp_path / "trace.json")  # type: ignore[arg-type]
    assert 0 < peak < 9 << 20


@pytest.mark.parametrize("at", [0, (1 << 20) - 1, 1 << 20, (3 << 20) - 1])
def test_the_check_reads_all_parts_of_a_weight(at: int) -> None:
    weight = torch.zeros(3 << 20)
    weight[at] = float("inf")
    with pytest.raises(ModelError, match=r"1 of 3,145,728 numbers in weight"):
        check_finite_weights(only_embeddings(weight))  # type: ignore[arg-type]


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    # 2 x 3e38 is beyond float32.
    check_finite_weights(only_embeddings(torch.full((4,), 3e38)))  # type: ignore[arg-type]
