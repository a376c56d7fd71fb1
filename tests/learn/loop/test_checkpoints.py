"""Checkpoints: what they save, and which settings may change before a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from accord.errors import SettingsError
from accord.learn.loop.checkpoints import (
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from accord.learn.loop.learner import make_learner
from accord.learn.loop.state import FitState, TrainState
from accord.lm.model import LanguageModel
from accord.settings.base import Settings
from accord.settings.identity import identity_settings
from accord.settings.preferences import DpoSettings
from accord.settings.training import SftSettings
from tests.learn.toys.models import causal_lm
from tests.learn.toys.settings import REQUIRED, online_settings


def make_bf16_state(lm: LanguageModel, step: int = 0) -> TrainState[FitState]:
    return TrainState({"model": make_learner(lm, SftSettings(**REQUIRED))}, FitState(), step=step)


def test_a_checkpoint_saves_the_masters_and_restores_the_copies_too(tmp_path: Path) -> None:
    lm, restored_lm = (causal_lm(precision="bf16") for _ in range(2))
    state = make_bf16_state(lm, step=3)
    learner = state.learners["model"]
    with torch.no_grad():
        for master in learner.parameters.values():
            master += 0.01
    learner.sync_copies()
    save_checkpoint(tmp_path, state, {}, keep=1)
    restored = make_bf16_state(restored_lm)
    assert load_checkpoint(tmp_path, restored, Settings(), resume=True)
    assert restored.step == 3
    for name, master in restored.learners["model"].parameters.items():
        assert torch.equal(master, learner.parameters[name])
        assert torch.equal(
            restored_lm.trainable_parameters()[name], lm.trainable_parameters()[name]
        )


def test_checkpoints_half_removed_do_not_stop_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when a run that has ended is killed while it removes them: one of two files is gone.
    state = make_bf16_state(causal_lm(precision="bf16"), step=3)
    save_checkpoint(tmp_path, state, {}, keep=1)

    def remove_half(folder: Path, **options: object) -> None:
        next(folder.rglob("*.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", remove_half)
        with pytest.raises(KeyboardInterrupt):
            remove_checkpoints(tmp_path)
    assert not load_checkpoint(tmp_path, state, Settings(), resume=True)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    state = make_bf16_state(causal_lm(precision="bf16"), step=3)
    path = save_checkpoint(tmp_path, state, {}, keep=1) / "state.json"
    path.write_text(path.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(SettingsError, match=r"written by 2 process.* this run has 1"):
        load_checkpoint(tmp_path, state, Settings(), resume=True)


def dpo_settings(**overrides: Any) -> DpoSettings:
    return DpoSettings(**REQUIRED, **overrides)


@pytest.mark.parametrize(
    ("loss_type", "matters"),
    [
        ("sigmoid", False),  # each pair by itself, however the step is split
        (["sigmoid", "sft"], False),
        ("aot", True),  # sorts the margins of a pass
        ("aot_unpaired", True),
        ("bco_pair", True),  # subtracts the mean of a pass
        (["sigmoid", "bco_pair"], True),
    ],
)
def test_the_size_of_a_pass_matters_for_losses_that_couple_its_pairs(
    loss_type: Any, matters: bool
) -> None:
    whole = dpo_settings(loss_type=loss_type)
    split = dpo_settings(loss_type=loss_type, max_tokens_per_forward=64)
    assert (identity_settings(whole) != identity_settings(split)) == matters


def test_a_run_with_such_a_loss_does_not_resume_with_another_size_of_a_pass(
    tmp_path: Path,
) -> None:
    settings = dpo_settings(loss_type="aot")
    saved = settings.model_dump(mode="json")
    save_checkpoint(tmp_path, TrainState({}, FitState(), step=2), saved, keep=1)
    resized = dpo_settings(loss_type="aot", max_tokens_per_forward=64)
    with pytest.raises(SettingsError, match="max_tokens_per_forward was None and is 64"):
        load_checkpoint(tmp_path, TrainState({}, FitState()), resized, resume=True)
    assert load_checkpoint(tmp_path, TrainState({}, FitState()), settings, resume=True)


def test_a_servers_address_does_not_change_what_is_learned() -> None:
    def server(**sampler: Any) -> dict[str, Any]:
        settings = online_settings("grpo", lora={}, sampler={"kind": "vllm", **sampler})
        return identity_settings(settings)

    first = server(url="http://127.0.0.1:8000")
    assert server(url="http://127.0.0.1:8001", retries=9, timeout=5) == first
    assert server(url="http://127.0.0.1:8000", model="another") != first
