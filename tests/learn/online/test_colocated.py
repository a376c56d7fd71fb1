"""Online learning from vLLM in accord's own process, with an engine that samples from a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.errors import DataError, SettingsError, WorkError
from accord.learn.loop.in_memory import InMemory
from accord.learn.online.train import train_online
from accord.lm.load import load_causal
from accord.settings.online import OnlineSettings
from accord.settings.stage_kinds import METHOD_SETTINGS
from tests.lm.toys import save_toy
from tests.respond.fake_engine import FakeEngine, replace_engine

ITERATION = ["wake weights", "load weights", "wake kv_cache", "reset cache", "generate", "sleep 2"]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return replace_engine(monkeypatch, "accord.learn.online.roles")


def make_settings(folder: Path, method: str, **values: Any) -> OnlineSettings:
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("the cat", "a dog")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(
        "def length(prompts, responses):\n    return [-float(len(r)) for r in responses]\n"
    )
    settings = METHOD_SETTINGS[method](
        **{
            "model": save_toy(folder / "model"),
            "dataset": str(folder / "prompts.jsonl"),
            "output_dir": str(folder / "out"),
            "rewards": [{"kind": "python", "function": f"{folder / 'mine.py'}:length"}],
            "sampler": {"kind": "vllm", "mode": "colocate"},
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_new_tokens": 8,
            "max_length": 64,
            "max_steps": 3,
            "learning_rate": 3e-2,
            "lr_scheduler_type": "constant",
            "missing_eos_penalty": 0.0,
            "save_steps": 1,
            "device": "cpu",
            **values,
        }
    )
    assert isinstance(settings, OnlineSettings)
    return settings


@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_each_iteration_samples_from_the_present_weights_and_sleeps_while_it_trains(
    method: str, lora: dict[str, int] | None, engine: FakeEngine, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, method, lora=lora)
    metrics = []
    for result in train_online(method, settings):
        metrics.append(result.metrics)
        engine.calls.append("trained")
    assert engine.calls == ["build", "sleep 2", *([*ITERATION, "trained"] * 3), "close"]
    assert engine.built.max_length == 64
    assert metrics[-1]["objective/kl"] > 0.1  # the policy has moved: older weights would differ
    for row in metrics:
        assert abs(row["sampler/mismatch_kl"]) < 1e-6
        assert row["sampler/weight_mean"] == pytest.approx(1, abs=1e-4)


def test_an_engine_that_stays_awake_gets_the_weights_too(
    engine: FakeEngine, tmp_path: Path
) -> None:
    sampler = {"kind": "vllm", "mode": "colocate", "sleep_level": 0}
    settings = make_settings(tmp_path, "grpo", sampler=sampler)
    metrics = [result.metrics for result in train_online("grpo", settings)]
    assert engine.calls == ["build", *(["load weights", "reset cache", "generate"] * 3), "close"]
    assert metrics[-1]["objective/kl"] > 0.1
    assert all(abs(row["sampler/mismatch_kl"]) < 1e-6 for row in metrics)


def test_a_run_whose_engine_dies_resumes(engine: FakeEngine, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "grpo")
    steps = train_online("grpo", settings)
    next(steps)
    engine.fails = RuntimeError("device-side assert")
    with pytest.raises(WorkError, match=r"could not wake up .*device-side assert"):
        next(steps)
    assert engine.calls[-1] == "close"
    engine.calls.clear()
    assert [result.step for result in train_online("grpo", settings)] == [2, 3]
    assert engine.calls == ["build", "sleep 2", *(ITERATION * 2), "close"]


def test_a_policy_in_memory_is_refused(engine: FakeEngine, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "grpo")
    lm = load_causal(settings.model, device="cpu", trainable=True)
    with pytest.raises(SettingsError, match="the policy was passed in memory"):
        list(train_online("grpo", settings, InMemory(model=lm, on_disk=False)))
    assert engine.calls == []


def test_the_engine_has_no_more_positions_than_the_model(
    engine: FakeEngine, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, "grpo", max_length=1024, max_steps=1)
    list(train_online("grpo", settings))
    assert engine.built.max_length == 128


def test_the_engine_ends_where_the_prompts_are_of_no_use(
    engine: FakeEngine, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, "grpo", max_prompt_length=1, long_prompts="drop")
    with pytest.raises(DataError):
        list(train_online("grpo", settings))
    assert engine.calls == ["build", "sleep 2", "close"]


def test_without_vllm_no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.respond.vllm.building.find_spec", lambda name: None)
    settings = make_settings(tmp_path, "grpo")
    (tmp_path / "model/model.safetensors").write_bytes(b"")  # can not be loaded
    with pytest.raises(SettingsError, match="needs vLLM in accord's own environment"):
        list(train_online("grpo", settings))
