"""Every method trains adapters on a base in 4 bits, with its other roles on the same base."""

from __future__ import annotations

import json
import math
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accord.errors import ModelError, SettingsError
from accord.learn.offline.rows import load_starting_model
from accord.learn.offline.train import train_offline
from accord.learn.online.engines import warn_about_4_bits
from accord.learn.online.memory import memory_plan
from accord.learn.online.methods import ONLINE
from accord.learn.online.roles import load_roles
from accord.lm.adapters.lora import add_adapters
from accord.lm.in_memory import full_precision_and_trainable
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.loading.quantised import is_4bit, packed_bytes
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import find_model
from accord.pipeline.plan.online import online_roles
from accord.settings.reading.load import build
from accord.settings.recipe import StagePlan
from accord.settings.training import LoraSettings, SftSettings
from tests.learn.toys.saved import SETTINGS, SavedToys, train
from tests.lm.test_quantised import save_family

needs_bitsandbytes = pytest.mark.skipif(
    util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra `quantization`)"
)
FOUR_BIT: dict[str, Any] = {"quantization": "nf4", "lora": {"r": 2}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_family(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.fixture(scope="module")
def reward_adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model as adapters on the 4-bit base."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    lm = load_scalar(base, new_head=True, seed=1, quantization="nf4")
    save_model(add_adapters(lm, LoraSettings(r=2), seed=1), folder, card="")
    return str(folder)


@needs_bitsandbytes
@pytest.mark.parametrize("method", SETTINGS)
def test_a_step_of_each_method(
    method: str, base: str, reward_adapter: str, toys: SavedToys, tmp_path: Path
) -> None:
    online: dict[str, Any] = {"reward_model": reward_adapter} if method in ONLINE else {}
    settings = toys.settings(method, "llama", tmp_path, model=base, **FOUR_BIT, **online)
    (result,) = train(method, settings)
    if method == "dpo":  # the reference is the policy's own base: −log σ(0)
        assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)
    if method in ONLINE:
        assert result.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
        assert result.metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    folder = tmp_path / "model"
    tensors = load_file(folder / "adapter_model.safetensors")
    assert any(bool(t.any()) for n, t in tensors.items() if "lora_B" in n)
    assert not (folder / "model.safetensors").exists()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    assert "was trained on that base in 4 bits" in (folder / "README.md").read_text()
    # It loads for sampling, serving and audits, merged into the base in full precision.
    lm = load_scalar(str(folder)) if method == "reward" else load_causal(str(folder))
    assert not lm.is_quantised


@needs_bitsandbytes
def test_bf16_adapters_have_float32_masters(base: str, toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings("dpo", "llama", tmp_path, model=base, precision="bf16", **FOUR_BIT)
    lm = load_starting_model(settings, scalar=False)
    assert lm.weights_dtype == torch.bfloat16
    (result,) = train("dpo", settings)
    assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-2)
    tensors = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}


@needs_bitsandbytes
def test_ppos_roles_share_one_4_bit_base(
    base: str,
    reward_adapter: str,
    toys: SavedToys,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = toys.settings(
        "ppo", "llama", tmp_path, model=base, reward_model=reward_adapter, **FOUR_BIT
    )
    roles = load_roles(settings)  # type: ignore[arg-type]
    warn_about_4_bits(roles.policy)
    assert "computes with its weights in 4 bits" in caplog.text
    assert roles.critic is not None
    assert roles.reference is not None
    views = (roles.critic, roles.reference, *roles.reward.models)
    assert all(view.model is roles.policy.model for view in views)
    plan = memory_plan({"policy": roles.policy, "reference": roles.reference})
    assert plan["reference"].total == 0
    layers: Any = [m for m in roles.policy.inner.modules() if is_4bit(m)]
    four_bit = sum(packed_bytes(m.in_features * m.out_features) for m in layers)
    others = {n: p for n, p in roles.policy.view_parameters().items() if p.is_floating_point()}
    planned, _, _ = online_roles(
        Inputs(
            StagePlan("ppo", "train", settings, "ppo"),
            (),
            find_model(base, ()),
            Machine("cpu", 1 << 30),
        )
    )
    expected = {
        "policy": roles.policy,
        "reference": roles.reference,
        "reward model": roles.reward.models[0],
        "critic": roles.critic,
    }
    assert planned == memory_plan(expected)
    assert plan["policy"].quantised == four_bit
    assert plan["policy"].weights == sum(4 * p.numel() for p in others.values())


@needs_bitsandbytes
def test_a_run_in_4_bits_continues_as_if_never_stopped(
    base: str, toys: SavedToys, tmp_path: Path
) -> None:
    def settings(name: str) -> Any:
        return toys.settings(
            "dpo", "llama", tmp_path / name, model=base, max_steps=4, save_steps=2, **FOUR_BIT
        )

    whole = [r.metrics["loss"] for r in train("dpo", settings("whole"))]
    steps = train_offline("dpo", settings("parts"))
    first = [next(steps).metrics["loss"] for _ in range(2)]
    steps.close()  # type: ignore[attr-defined]
    rest = [r.metrics["loss"] for r in train("dpo", settings("parts"))]
    assert first + rest == whole
    weights = [
        load_file(tmp_path / n / "model" / "adapter_model.safetensors") for n in ("whole", "parts")
    ]
    assert all(torch.equal(t, weights[1][n]) for n, t in weights[0].items())


@needs_bitsandbytes
def test_another_reference_is_held_in_4_bits_too(
    base: str, toys: SavedToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(path: str, **options: Any) -> Any:
        loaded.append(load_causal(path, **options))
        return loaded[-1]

    monkeypatch.setattr("accord.learn.offline.reference.load_causal", load)
    other = save_family(tmp_path / "other", "llama", seed=3)
    settings = toys.settings(
        "dpo", "llama", tmp_path / "run", model=base, ref_model=other, **FOUR_BIT
    )
    (result,) = train("dpo", settings)
    assert [lm.name for lm in loaded] == [other]
    assert loaded[0].is_quantised
    assert result.metrics["loss"] != pytest.approx(math.log(2), rel=1e-3)


@needs_bitsandbytes
def test_all_weights_of_a_4_bit_model_are_not_trained(base: str) -> None:
    with pytest.raises(ModelError, match="held in 4 bits, which can't be trained"):
        full_precision_and_trainable(load_causal(base, quantization="nf4"))


TRAIN = {"model": "m", "dataset": "d", "output_dir": "o"}


def test_quantization_needs_adapters() -> None:
    with pytest.raises(SettingsError, match=r"freezes the weights in 4 bits.*`lora: on`"):
        build(SftSettings, {**TRAIN, "quantization": "nf4"}, where="train sft")


def test_load_in_4bit_is_the_name_of_other_tools() -> None:
    settings = build(SftSettings, {**TRAIN, "load_in_4bit": True, "lora": {}}, where="train sft")
    assert settings.quantization == "nf4"
    off = build(SftSettings, {**TRAIN, "load_in_4bit": False}, where="train sft")
    assert off.quantization is None
    with pytest.raises(SettingsError, match="must be true or false"):
        build(SftSettings, {**TRAIN, "load_in_4bit": "nf4", "lora": {}}, where="train sft")
    for name in ("load_in_8bit", "bnb_4bit_quant_type", "quantization_bit"):
        with pytest.raises(SettingsError, match="quantization"):
            build(SftSettings, {**TRAIN, name: True}, where="train sft")
