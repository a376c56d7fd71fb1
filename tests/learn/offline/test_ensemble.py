"""Reward models of several heads: their combined score, and from training to PPO."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from accord.compare.rewards.models import model_reward
from accord.errors import SettingsError
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.lm.forward import response_head_scores, response_scores
from accord.lm.heads import reduce_to_first_head
from accord.lm.load import load_scalar
from accord.lm.packing import PromptGroup, pack
from accord.records import prompt_from_json
from accord.settings.ppo import PpoSettings
from accord.settings.training import RewardSettings
from tests.learn.toys.files import read_jsonl, user_says, write_jsonl
from tests.learn.toys.models import scalar_lm
from tests.learn.toys.plain_forward import plain_scores
from tests.learn.toys.saved import SavedToys, train
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

GROUPS = random_groups([(4, (1, 9)), (2, (13, 2)), (7, (5, 5, 3)), (1, (8, 1))], VOCABULARY)


def test_the_combined_score_is_the_mean_of_centred_heads_less_the_penalty() -> None:
    # Centred by the means (1, −1): (0, 4) and (2, 2); mean less half the deviation: 2 − 1, 2 − 0.
    lm = scalar_lm(heads=2)
    lm.head_means, lm.score_penalty = (1.0, -1.0), 0.5
    assert lm.combine_heads(torch.tensor([[1.0, 3.0], [3.0, 1.0]])).tolist() == [1.0, 2.0]
    single = scalar_lm()
    single.score_penalty = 7.0
    assert single.combine_heads(torch.tensor([[1.0], [3.0]])).tolist() == [1.0, 3.0]


@torch.no_grad()
def test_the_first_head_alone_makes_a_critic() -> None:
    lm = scalar_lm(heads=3)
    lm.head_means, lm.score_penalty, lm.score_mean, lm.score_std = (0.1, 0.2, 0.3), 1.0, -4.0, 2.0
    expected = response_head_scores(lm, pack(GROUPS))[:, 0]
    reduce_to_first_head(lm)
    assert lm.heads == 1
    torch.testing.assert_close(response_scores(lm, pack(GROUPS)), expected)
    assert (lm.head_means, lm.score_penalty, lm.score_mean, lm.score_std) == ((), 0, 0.1, 2.0)


def write_pairs(path: Path, count: int = 6) -> str:
    """Pairs of responses of several lengths."""
    return write_jsonl(
        path,
        (
            {
                "prompt": user_says(f"the {i}"),
                "chosen": "yes" + " it is" * (i % 3),
                "rejected": "no" + " sea" * (i % 2),
            }
            for i in range(count)
        ),
    )


def reward_settings(folder: Path, **overrides: Any) -> RewardSettings:
    """Settings of two steps on the pairs in the folder; the model is saved in `rm/model`."""
    return RewardSettings(
        **{
            "model": save_toy(folder / "toy"),
            "dataset": write_pairs(folder / "pairs.jsonl"),
            "output_dir": str(folder / "rm"),
            "max_steps": 2,
            "learning_rate": 1e-3,
            "max_length": 64,
            "device": "cpu",
            **overrides,
        }
    )


def encode_chosen(rows: list[dict[str, Any]]) -> list[PromptGroup]:
    """The chosen responses as the tokenizer alone encodes them, with an end."""
    tokenizer, groups = toy_tokenizer(), []
    for row in rows:
        shown = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        prompt, response = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (shown, row["chosen"])
        )
        groups.append(PromptGroup(tuple(prompt), ((*response, 2),)))
    return groups


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_an_ensemble_from_training_to_ppo(tmp_path: Path, lora: dict[str, int] | None) -> None:
    settings = reward_settings(
        tmp_path,
        heads=3,
        ensemble_penalty=0.5,
        length_regularisation=0.5,
        length_slope=0.25,
        lora=lora,
        eval_dataset=write_pairs(tmp_path / "held_out.jsonl", 3),
    )
    results = list(train_offline("reward", settings))
    assert all(r.metrics["rewards/std"] > 0 for r in results)
    assert results[-1].metrics["eval/rewards/std"] > 0
    model = tmp_path / "rm" / "model"
    numbers = json.loads((model / "reward.json").read_text())
    saved = (numbers["heads"], numbers["ensemble_penalty"], numbers["length_slope"])
    assert saved == (3, 0.5, 0.25)
    lm = load_scalar(str(model))
    assert lm.heads == 3
    assert lm.head_means == tuple(numbers["head_means"])
    assert len({round(m, 6) for m in lm.head_means}) == 3

    # The score: the mean of the centred heads less half their deviation, normalised.
    rows = read_jsonl(tmp_path / "pairs.jsonl")
    groups = encode_chosen(rows)
    with torch.no_grad():
        heads = response_head_scores(lm, pack(groups)) - torch.tensor(lm.head_means)
        if lora is None:
            plain = AutoModelForSequenceClassification.from_pretrained(model).eval()
            raw = torch.cat([plain_scores(plain, g) for g in groups])
            torch.testing.assert_close(raw - torch.tensor(lm.head_means), heads, atol=1e-4, rtol=0)
    expected = heads.mean(1) - 0.5 * heads.std(1, correction=0)
    expected = (expected - lm.score_mean) / lm.score_std
    prompts = [prompt_from_json(row["prompt"]) for row in rows]
    scores = model_reward(lm)(prompts, [row["chosen"] for row in rows])
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)

    ppo = PpoSettings(
        model=str(tmp_path / "toy"),
        reward_model=str(model),
        dataset=write_jsonl(
            tmp_path / "prompts.jsonl", ({"prompt": row["prompt"]} for row in rows[:4])
        ),
        output_dir=str(tmp_path / "ppo"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_ppo_epochs=1,
        max_new_tokens=4,
        max_length=64,
        device="cpu",
        lora=lora,
    )
    (step,) = train_online("ppo", ppo)
    assert math.isfinite(step.metrics["loss"])


@pytest.mark.parametrize(
    ("precision", "lora"), [("fp32", None), ("fp32", {"r": 2}), ("bf16", None)]
)
def test_an_ensemble_takes_a_step(
    precision: str, lora: dict[str, int] | None, toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings(
        "reward",
        "llama",
        tmp_path,
        heads=2,
        ensemble_penalty=0.5,
        length_regularisation=0.5,
        precision=precision,
        lora=lora,
    )
    results = train("reward", settings)
    assert results[0].metrics["rewards/std"] > 0
    lm = load_scalar(str(tmp_path / "model"))
    assert (lm.heads, lm.score_penalty) == (2, 0.5)
    assert lm.length_slope is not None


def test_the_combined_scores_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    settings = reward_settings(tmp_path, heads=2, ensemble_penalty=1.0)
    list(train_offline("reward", settings))
    lm = load_scalar(str(tmp_path / "rm" / "model"))
    rows = read_jsonl(tmp_path / "pairs.jsonl")
    prompts = [prompt_from_json(row["prompt"]) for row in rows] * 2
    texts = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
    scores = torch.tensor(model_reward(lm)(prompts, texts))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-4)


def test_an_ensemble_is_trained_further_with_the_same_number_of_heads(tmp_path: Path) -> None:
    list(train_offline("reward", reward_settings(tmp_path, heads=2, max_steps=1)))
    trained = str(tmp_path / "rm" / "model")
    weights = load_scalar(trained).inner.score.weight
    assert torch.equal(load_scalar(trained, heads=2, seed=9).inner.score.weight, weights)
    with pytest.raises(SettingsError, match="with heads=2, and heads=1 was asked for"):
        load_scalar(trained, heads=1)
    single = reward_settings(tmp_path, output_dir=str(tmp_path / "single"), max_steps=1)
    list(train_offline("reward", single))
    with pytest.raises(SettingsError, match=r"Set heads=1 to train it further"):
        load_scalar(str(tmp_path / "single" / "model"), heads=2)


def test_new_heads_start_with_different_weights(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    weight = load_scalar(path, new_head=True, heads=3, seed=4).inner.score.weight.detach()
    assert weight.shape[0] == 3
    assert len({round(float(row[0]), 6) for row in weight}) == 3
    assert torch.equal(load_scalar(path, new_head=True, heads=3, seed=4).inner.score.weight, weight)
