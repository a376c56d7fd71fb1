"""AdamW, its learning rate, and clipping."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from accord.learn.loop.optimiser import adamw, clip_gradients, learning_rate_factor
from accord.settings.training import SftSettings
from tests.learn.toys.settings import REQUIRED


def test_the_learning_rate_warms_up_and_decays_by_its_shape() -> None:
    # 10 steps, of which the first 2 are warm-up: ½, 1; then 8 more from step 2.
    def factors(shape: Any) -> list[float]:
        return [learning_rate_factor(s, 10, shape=shape, warmup_ratio=0.2) for s in range(10)]

    assert factors("constant") == [0.5] + [1.0] * 9
    assert factors("linear") == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 0.5, 3 / 8, 2 / 8, 1 / 8]
    )
    cosine = [0.5 * (1 + math.cos(math.pi * s / 8)) for s in range(8)]
    assert factors("cosine") == pytest.approx([0.5, 1.0, *cosine])
    assert learning_rate_factor(10, 10, shape="linear", warmup_ratio=0.0) == 0.0
    assert learning_rate_factor(0, 1, shape="cosine", warmup_ratio=0.0) == 1.0


def test_gradients_are_clipped_to_a_norm() -> None:
    def make_parameter() -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.zeros(2))
        p.grad = torch.tensor([3.0, 4.0])  # norm 5
        return p

    clipped, unlimited, small = make_parameter(), make_parameter(), make_parameter()
    assert clip_gradients([clipped], 1.0) == 5.0
    assert clipped.grad is not None
    assert clipped.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
    assert clip_gradients([unlimited], 0) == 5.0
    assert unlimited.grad is not None
    assert unlimited.grad.tolist() == [3.0, 4.0]
    clip_gradients([small], 10.0)
    assert small.grad is not None
    assert small.grad.tolist() == [3.0, 4.0]


def test_only_matrices_decay() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    settings = SftSettings(**REQUIRED, weight_decay=0.1, learning_rate=0.5, adam_beta1=0.8)
    optimiser = adamw([matrix, vector], settings)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    # No gradient: θ ← θ·(1 − lr·decay) = 0.95 for the matrix; the vector stays.
    assert matrix.detach().flatten().tolist() == pytest.approx([0.95] * 4)
    assert vector.detach().tolist() == [1.0, 1.0]
    assert optimiser.defaults["betas"] == (0.8, 0.999)


def test_the_optimiser_steps_in_place_and_copies_no_weights() -> None:
    weights = torch.nn.Parameter(torch.randn(300, 300))
    optimiser = adamw([weights], SftSettings(**REQUIRED))
    weights.grad = torch.randn(300, 300)
    optimiser.step()
    moments = optimiser.state[weights]
    tensors = (weights, moments["exp_avg"], moments["exp_avg_sq"])
    addresses, before = [t.data_ptr() for t in tensors], weights.detach().clone()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        optimiser.step()
    assert not torch.equal(weights, before)
    assert [t.data_ptr() for t in tensors] == addresses
    # What a step allocates is small beside the weights: none of them is copied.
    allocated = [max(0, event.self_cpu_memory_usage) for event in profile.events()]
    assert sum(allocated) < weights.nbytes / 10
