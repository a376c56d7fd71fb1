"""bf16 weights with float32 masters: nothing small is lost, and what is saved is exact."""

from __future__ import annotations

from pathlib import Path

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
from accord.lm.forward import check_packing, response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import pack
from accord.settings.base import Settings
from accord.settings.training import RewardSettings, SftSettings
from tests.lm.models import VOCABULARY, causal, scalar
from tests.lm.toys import random_groups

NAMES = {"model": "toy", "dataset": "toy", "output_dir": "nowhere"}
GROUPS = random_groups([(4, (3, 5)), (2, (7, 1))], VOCABULARY)


class NoTokenizer:
    eos_token_id = 2


def half_model() -> LanguageModel:
    lm = LanguageModel(causal("llama"), NoTokenizer(), "toy", precision="bf16")
    assert check_packing(lm)
    return lm


def test_the_model_computes_on_copies_and_the_optimiser_steps_the_masters() -> None:
    lm = half_model()
    exact = {n: p.detach().clone() for n, p in lm.trainable_parameters().items()}
    learner = make_learner(lm, SftSettings(**NAMES))
    assert lm.weights_dtype == torch.bfloat16
    for name, master in learner.parameters.items():
        assert master.dtype == torch.float32
        assert torch.equal(master, exact[name])  # no digit of what was loaded is lost
        assert torch.equal(learner.copies[name], exact[name].bfloat16())
    response_logps(lm, pack(GROUPS)).sum().backward()
    assert all(p.grad is None for p in lm.trainable_parameters().values())  # moved as soon as made
    assert all(p.grad is not None for p in learner.parameters.values())


def test_updates_smaller_than_a_bf16_step_add_up() -> None:
    # Near 1 bf16 has steps of 2⁻⁷ (up) and 2⁻⁸ (down): a hundred updates of 10⁻³ are lost in
    # bf16 one by one, and are 0.1 in the master.
    lm = half_model()
    learner = make_learner(lm, SftSettings(**NAMES))
    name = next(n for n in learner.parameters if n.endswith("input_layernorm.weight"))
    master, copy = learner.parameters[name], learner.copies[name]
    with torch.no_grad():
        master.fill_(1.0)
        for _ in range(100):
            master += 1e-3
            learner.sync_copies()
    assert torch.allclose(master, torch.tensor(1.1), atol=1e-5)
    assert torch.equal(copy, master.bfloat16())
    learner.use_masters()
    assert torch.equal(dict(lm.trainable_parameters())[name], master)  # what is saved is the master


def test_small_gradients_of_many_passes_are_added_in_float32() -> None:
    lm = half_model()
    learner = make_learner(lm, SftSettings(**NAMES))
    weight = learner.copies["model.norm.weight"]
    master = learner.parameters["model.norm.weight"]
    # 256 + 1 is 256 in bf16, eight digits: added one by one there, the ones would be lost.
    (weight.sum() * 256).backward()
    for _ in range(10):
        weight.sum().backward()
    assert master.grad is not None
    assert master.grad.tolist() == [266.0] * len(master)


def test_a_scalar_head_stays_in_float32() -> None:
    lm = LanguageModel(scalar("llama"), NoTokenizer(), "toy", scalar=True, precision="bf16")
    learner = make_learner(lm, RewardSettings(**NAMES))
    assert lm.inner.score.weight.dtype == torch.float32
    assert "score.weight" not in learner.copies
    assert lm.weights_dtype == torch.bfloat16


def test_float32_has_no_copies() -> None:
    lm = LanguageModel(causal("llama"), NoTokenizer(), "toy")
    learner = make_learner(lm, SftSettings(**NAMES))
    assert not learner.copies
    assert all(p is lm.trainable_parameters()[n] for n, p in learner.parameters.items())


def test_a_checkpoint_holds_the_masters_and_brings_the_copies_up_to_date(tmp_path: Path) -> None:
    lm = half_model()
    state = TrainState({"model": make_learner(lm, SftSettings(**NAMES))}, FitState(), step=3)
    with torch.no_grad():
        for master in state.learners["model"].parameters.values():
            master += 0.01
    state.learners["model"].sync_copies()
    save_checkpoint(tmp_path, state, {}, keep=1)
    again = half_model()
    fresh = TrainState({"model": make_learner(again, SftSettings(**NAMES))}, FitState())
    assert load_checkpoint(tmp_path, fresh, Settings(), resume=True)
    assert fresh.step == 3
    for name, master in fresh.learners["model"].parameters.items():
        assert torch.equal(master, state.learners["model"].parameters[name])
        assert torch.equal(again.trainable_parameters()[name], lm.trainable_parameters()[name])


def test_checkpoints_half_removed_do_not_stop_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when a run that has ended is killed while it removes them: one of two files is gone.
    state = TrainState(
        {"model": make_learner(half_model(), SftSettings(**NAMES))}, FitState(), step=3
    )
    save_checkpoint(tmp_path, state, {}, keep=1)

    def half(folder: Path, **told: object) -> None:
        next(folder.rglob("*.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            remove_checkpoints(tmp_path)
    assert not load_checkpoint(tmp_path, state, Settings(), resume=True)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_processes_is_refused(tmp_path: Path) -> None:
    lm = half_model()
    state = TrainState({"model": make_learner(lm, SftSettings(**NAMES))}, FitState(), step=3)
    place = save_checkpoint(tmp_path, state, {}, keep=1) / "state.json"
    place.write_text(place.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(SettingsError, match=r"written by 2 process.* this run has 1"):
        load_checkpoint(tmp_path, state, Settings(), resume=True)
