"""Activations in the machine's memory: what moves, and that gradients are equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from accord.learn.offline.rows import with_memory_settings
from accord.lm import offload
from accord.lm.forward import response_logps
from accord.lm.load import load_causal
from accord.lm.packing import pack
from accord.settings.training import SftSettings
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

GROUPS = random_groups([(9, (7, 12)), (6, (11,))], len(toy_tokenizer()))
META = torch.device("meta")


def test_weights_and_small_tensors_stay() -> None:
    weight = torch.nn.Parameter(torch.empty(300, 200, device=META))
    moved: list[tuple[int, ...]] = []

    def recorded(shape: tuple[int, ...], **options: object) -> Tensor:
        moved.append(tuple(shape))
        return torch.empty(shape, **options)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    patch.setattr(
        offload, "partial", lambda _, shape, **options: lambda: recorded(shape, **options)
    )
    with patch.context():
        x = torch.empty(100, 200, device=META, requires_grad=True)
        y = torch.empty(4, 200, device=META, requires_grad=True)
        with offload.offloaded_activations([weight]):
            # Each product saves its input and its weight; y is below 64 KB.
            loss = ((x * 2.0) @ weight.T).sum() + ((y * 2.0) @ weight.T).sum()
        loss.backward()
    patch.undo()
    assert moved == [(100, 200)]


def test_gradients_are_equal_when_everything_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_causal(save_toy(tmp_path / "model"), trainable=True)
    parameters = [p for p in lm.model.parameters() if p.requires_grad]

    def gradients() -> tuple[Tensor, ...]:
        loss = response_logps(lm, pack(GROUPS)).sum()
        return torch.autograd.grad(loss, parameters)

    plain = gradients()
    count = 0

    def context(weights: object) -> object:
        def moved(tensor: Tensor) -> Callable[[], Tensor]:
            nonlocal count
            count += 1
            return offload._moved(tensor)

        return torch.autograd.graph.saved_tensors_hooks(moved, lambda saved: saved())

    monkeypatch.setattr("accord.lm.model.offloaded_activations", context)
    lm.offloads_activations = True
    for before, after in zip(plain, gradients(), strict=True):
        assert torch.equal(before, after)
    assert count > 20
    count = 0
    with torch.no_grad():
        response_logps(lm, pack(GROUPS))
    assert count == 0


def test_on_a_cpu_a_warning_says_that_it_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = load_causal(save_toy(tmp_path / "model"))
    values = {"model": lm.name, "dataset": "d", "output_dir": "o", "activation_offload": True}
    assert with_memory_settings(lm, SftSettings(**values)).offloads_activations
    assert "is on the CPU: it does nothing here" in caplog.text
