"""Methods learn what is there to be learned, on toy data with one clear rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.learn.offline.train import train_offline
from accord.settings.preferences import DpoSettings
from accord.settings.training import RewardSettings, SftSettings
from tests.learn.toys.files import WORDS, user_says, write_jsonl, write_yes_no_pairs
from tests.lm.toys import save_toy


def test_dpo_lowers_its_loss_and_raises_its_accuracy(tmp_path: Path) -> None:
    settings = DpoSettings(
        model=save_toy(tmp_path / "toy"),
        dataset=write_yes_no_pairs(tmp_path / "train.jsonl", 64, seed=0),
        eval_dataset=write_yes_no_pairs(tmp_path / "test.jsonl", 32, seed=1),
        output_dir=str(tmp_path / "out"),
        max_steps=30,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        beta=0.5,
        max_length=64,
    )
    results = list(train_offline("dpo", settings))
    first, last = results[0].metrics, results[-1].metrics
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert last["loss"] < 0.3
    assert last["rewards/accuracies"] > 0.95
    assert last["eval/rewards/accuracies"] > 0.95


def test_a_reward_model_learns_a_clear_preference(tmp_path: Path) -> None:
    settings = RewardSettings(
        model=save_toy(tmp_path / "toy"),
        dataset=write_yes_no_pairs(tmp_path / "train.jsonl", 64, seed=0),
        eval_dataset=write_yes_no_pairs(tmp_path / "test.jsonl", 32, seed=1),
        output_dir=str(tmp_path / "out"),
        max_steps=30,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        max_length=64,
    )
    last = list(train_offline("reward", settings))[-1].metrics
    assert last["rewards/accuracies"] > 0.95
    assert last["eval/rewards/accuracies"] > 0.95
    assert last["eval/loss"] < 0.3


def test_sft_learns_one_answer(tmp_path: Path) -> None:
    settings = SftSettings(
        model=save_toy(tmp_path / "toy"),
        dataset=write_jsonl(
            tmp_path / "sft.jsonl",
            ({"prompt": user_says(word), "completion": "yes"} for word in WORDS),
        ),
        output_dir=str(tmp_path / "out"),
        max_steps=40,
        per_device_train_batch_size=10,
        learning_rate=1e-2,
        max_length=64,
    )
    results = list(train_offline("sft", settings))
    assert results[-1].metrics["loss"] < 0.1 < results[0].metrics["loss"]
    assert results[-1].metrics["mean_token_accuracy"] == 1.0
