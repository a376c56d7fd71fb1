"""AdamW with 8-bit moments: its steps, its memory, and runs that are resumed."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from accord.errors import SettingsError
from accord.learn.loop.learner import Learner
from accord.learn.loop.optimiser import adamw
from accord.learn.loop.state import FitState, TrainState, restore_tensors, state_tensors
from accord.learn.offline.train import train_offline
from accord.settings.reading.load import build
from accord.settings.training import SftSettings
from tests.learn.toys.saved import SavedToys, train

needs_bitsandbytes = pytest.mark.skipif(
    util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra `quantization`)"
)
SETTINGS = {"model": "m", "dataset": "d", "output_dir": "o", "learning_rate": 0.01}


def settings(**values: Any) -> SftSettings:
    return SftSettings(**{**SETTINGS, **values})


def learner(optim: str, shape: tuple[int, ...], **values: Any) -> tuple[nn.Parameter, Learner]:
    parameter = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    optimiser = adamw([parameter], settings(optim=optim, **values))
    return parameter, Learner({"w": parameter}, optimiser)


def take_steps(parameter: nn.Parameter, optimiser: Any, count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        generator = torch.Generator().manual_seed(100 + step)
        parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.5
        optimiser.step()


@needs_bitsandbytes
@pytest.mark.parametrize("shape", [(96, 64), (8, 8)])
def test_its_steps_are_adamws_up_to_8_bits(shape: tuple[int, int]) -> None:
    # Loshchilov & Hutter 2019, algorithm 2, in double precision.
    values = {"weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9}
    parameter, made = learner("adamw_8bit", shape, **values)
    exact = parameter.detach().double().clone()
    m = v = torch.zeros_like(exact)
    for step in range(1, 6):
        take_steps(parameter, made.optimiser, 1, start=step)
        gradient = parameter.grad
        assert gradient is not None
        m = 0.8 * m + 0.2 * gradient
        v = 0.9 * v + 0.1 * gradient**2
        hats = m / (1 - 0.8**step), v / (1 - 0.9**step)
        exact = exact - 0.01 * 0.1 * exact - 0.01 * hats[0] / (hats[1].sqrt() + 1e-8)
    error = (parameter - exact).abs()
    is_small = parameter.numel() < 4096  # which has float32 moments
    assert float(error.max()) < (1e-6 if is_small else 0.02)
    assert float(error.mean()) < (1e-6 if is_small else 5e-4)
    if not is_small:
        assert float(error.max()) > 1e-6  # the moments were rounded


@needs_bitsandbytes
def test_a_moment_takes_a_byte(tmp_path: Path) -> None:
    parameter, made = learner("adamw_8bit", (96, 64))
    take_steps(parameter, made.optimiser, 2)
    tensors = state_tensors(TrainState({"policy": made}, FitState()))
    # Two moments of a byte, and a float32 scale for each 256 of them.
    moments = {n: t for n, t in tensors.items() if not n.startswith(("policy/weight", "policy/st"))}
    codes = {n: t for n, t in tensors.items() if n.startswith("policy/state")}
    assert sum(t.numel() * t.element_size() for t in codes.values()) == 2 * 96 * 64
    assert {t.numel() for t in moments.values()} == {96 * 64 // 256}
    save_file(tensors, tmp_path / "state.safetensors")  # none shares memory with another


@needs_bitsandbytes
@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("shape", [(96, 64), (8, 8)])
def test_restored_moments_are_equal_to_the_bit(
    optim: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    parameter, made = learner(optim, shape)
    take_steps(parameter, made.optimiser, 3)
    save_file(state_tensors(TrainState({"p": made}, FitState())), tmp_path / "state.safetensors")
    other, again = learner(optim, shape)
    take_steps(other, again.optimiser, 1, start=7)  # moments of another run, to be replaced
    restore_tensors(TrainState({"p": again}, FitState()), load_file(tmp_path / "state.safetensors"))
    for each, each_made in ((parameter, made), (other, again)):
        take_steps(each, each_made.optimiser, 3, start=3)
    assert torch.equal(parameter, other)


@needs_bitsandbytes
def test_a_run_is_resumed_to_the_bit(toys: SavedToys, tmp_path: Path) -> None:
    def run(name: str) -> Any:
        return toys.settings(
            "dpo", "llama", tmp_path / name, optim="adamw_8bit", max_steps=4, save_steps=2
        )

    whole = [r.metrics["loss"] for r in train("dpo", run("whole"))]
    steps = train_offline("dpo", run("parts"))
    first = [next(steps).metrics["loss"] for _ in range(3)]
    steps.close()  # type: ignore[attr-defined]
    rest = [r.metrics["loss"] for r in train("dpo", run("parts"))]
    assert first + rest == whole
    plain = toys.settings("dpo", "llama", tmp_path / "plain", max_steps=4)
    assert [r.metrics["loss"] for r in train("dpo", plain)] != whole


@needs_bitsandbytes
def test_paged_moments_need_a_gpu() -> None:
    with pytest.raises(SettingsError, match=r"model is on the cpu. Use optim=adamw_8bit"):
        learner("paged_adamw_8bit", (8, 8))


def test_without_bitsandbytes_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.lm.loading.quantised.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"optim=adamw_8bit needs bitsandbytes.*accord\[quant"):
        learner("adamw_8bit", (8, 8))


def test_transformers_names_are_accepted() -> None:
    names = {"adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit", "adamw_8bit": "adamw_8bit"}
    for name, ours in names.items():
        assert build(SftSettings, {**SETTINGS, "optim": name}, where="train sft").optim == ours
    with pytest.raises(SettingsError, match="adafactor"):
        build(SftSettings, {**SETTINGS, "optim": "adafactor"}, where="train sft")
