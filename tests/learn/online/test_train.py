"""The online stage from files to a policy: resume, warm-up, held-out prompts, which roles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from accord.learn.loop.checkpoints import FOLDER as CHECKPOINTS
from accord.learn.online.saved_episodes import FOLDER as EPISODES
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps
from accord.lm.load import load_causal, load_scalar, save_model
from tests.learn.online.saved_roles import (
    CRITICS,
    GROUPS,
    LORA,
    RoleToys,
    ppo_settings,
    probe_batch,
)
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import SavedToys, assert_trained, save_with_other_tokenizer, train
from tests.lm.test_load import plain_logps
from tests.lm.toys import toy_tokenizer


@pytest.mark.parametrize(
    ("critic", "lora", "gradient_checkpointing"),
    [
        *((critic, lora, False) for critic, lora in CRITICS),
        # A separate critic has nothing with checkpointing that the other cases do not have.
        *((critic, lora, True) for critic, lora in CRITICS if critic != "separate"),
    ],
)
def test_ppo_resumes_from_a_checkpoint_to_the_bit(
    critic: str | None,
    lora: dict[str, int] | None,
    gradient_checkpointing: bool,
    role_toys: RoleToys,
    tmp_path: Path,
) -> None:
    straight_settings, stopped_settings = (
        ppo_settings(
            role_toys,
            tmp_path / name,
            critic=critic,
            lora=lora,
            gradient_checkpointing=gradient_checkpointing,
            max_steps=3,
        )
        for name in ("straight", "stopped")
    )
    straight = list(train_online("ppo", straight_settings))
    assert straight[0].metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert straight[0].metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert straight[0].metrics["grad_norm/critic"] > 0
    steps = train_online("ppo", stopped_settings)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    resumed = list(train_online("ppo", stopped_settings))
    assert [r.step for r in resumed] == [2, 3]
    assert [without_seconds(r.metrics) for r in resumed] == [
        without_seconds(r.metrics) for r in straight[1:]
    ]
    folders = [tmp_path / name / "model" for name in ("straight", "stopped")]
    weights = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert (folders[0] / weights).read_bytes() == (folders[1] / weights).read_bytes()
    with torch.no_grad():
        trained = response_logps(load_causal(str(folders[0])), probe_batch()).double()
        if lora is not None:
            plain = AutoPeftModelForCausalLM.from_pretrained(folders[0]).eval()
            logps = plain_logps(plain, toy_tokenizer(), GROUPS)
            torch.testing.assert_close(logps, trained, rtol=0, atol=1e-4)
        start = response_logps(load_causal(role_toys.base), probe_batch()).double()
    assert float((trained - start).abs().max()) > 1e-4


def test_a_run_killed_as_it_cleans_up_leaves_no_episodes(
    role_toys: RoleToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Episodes without their checkpoints would be taken for another run's.
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    settings = ppo_settings(role_toys, tmp_path, max_steps=2, save_steps=1)
    monkeypatch.setattr("accord.learn.online.train.remove_checkpoints", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(train_online("ppo", settings))
    assert (tmp_path / CHECKPOINTS).is_dir()
    assert not (tmp_path / EPISODES).exists()
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.undo()
    list(train_online("ppo", settings))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / CHECKPOINTS).exists()


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_warm_up_of_a_shared_critic_trains_its_head_alone(
    lora: dict[str, int] | None, role_toys: RoleToys, tmp_path: Path
) -> None:
    settings = ppo_settings(
        role_toys, tmp_path, critic="shared", lora=lora, critic_warmup_steps=2, max_steps=2
    )
    results = list(train_online("ppo", settings))
    assert all("grad_norm/policy" not in r.metrics for r in results)
    assert all(r.metrics["grad_norm/critic"] > 0 for r in results)
    with torch.no_grad():
        start = response_logps(load_causal(settings.model), probe_batch())
        trained = response_logps(load_causal(str(tmp_path / "model")), probe_batch())
    torch.testing.assert_close(trained, start, rtol=0, atol=1e-6)


def test_ppo_learns_from_a_reward_model_with_another_tokenizer(
    toys: SavedToys, tmp_path: Path
) -> None:
    text = "entirely different words are in here"
    save_with_other_tokenizer(tmp_path / "other", "llama", text, 280, seed=4)
    save_model(load_scalar(str(tmp_path / "other"), new_head=True), tmp_path / "rm", card="")
    settings = toys.settings("ppo", "llama", tmp_path / "out", reward_model=str(tmp_path / "rm"))
    assert_trained("ppo", settings, train("ppo", settings))


def test_ppo_is_evaluated_on_held_out_prompts(toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings(
        "ppo", "llama", tmp_path, eval_dataset=toys.data("ppo"), eval_steps=2, max_steps=3
    )
    results = train("ppo", settings)
    evaluated = [r.step for r in results if "eval/objective/kl" in r.metrics]
    assert evaluated == [2, 3]  # every second step, and the last
    assert results[-1].metrics["eval/response_length"] <= 5


@pytest.mark.parametrize("lora", [None, LORA])
def test_without_a_kl_no_reference_is_loaded(
    lora: dict[str, int] | None,
    toys: SavedToys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: object, **options: object) -> None:
        pytest.fail("a reference was loaded")

    monkeypatch.setattr("accord.learn.online.roles.load_causal", fail)
    monkeypatch.setattr("accord.learn.online.roles.base_view", fail)
    settings = toys.settings("grpo", "llama", tmp_path, beta=0.0, lora=lora)
    with caplog.at_level("INFO", logger="accord"):
        (result,) = train("grpo", settings)
    assert "objective/kl" not in result.metrics
    assert "memory of the policy" in caplog.text
    assert "memory of the reference" not in caplog.text
    assert "memory of the critic" not in caplog.text


def test_ppo_trains_with_pretraining_rows_and_without_a_critic(
    toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings(
        "ppo", "llama", tmp_path, ptx_dataset=toys.data("sft"), vf_coef=0.0, gae_lambda=1.0
    )
    results = train("ppo", settings)
    assert_trained("ppo", settings, results)
    assert results[0].metrics["loss/ptx_avg"] > 0
    assert "loss/value_avg" not in results[0].metrics
