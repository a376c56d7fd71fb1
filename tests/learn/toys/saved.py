"""Saved models of several families and files of rows, for runs from files to a model that loads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.learn.loop.fit import StepResult
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import pack
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.settings.groups import GROUP_METHODS
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PPO_METHODS
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.training import RewardSettings, SftSettings, TrainSettings
from tests.learn.toys.files import read_jsonl, user_says, write_jsonl
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer

SETTINGS: dict[str, Callable[..., TrainSettings]] = {
    "sft": SftSettings,
    "reward": RewardSettings,
    "dpo": DpoSettings,
    **PPO_METHODS,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
    **GROUP_METHODS,
}
DATA = {
    "sft": "sft.jsonl",
    **dict.fromkeys(ONLINE, "prompts.jsonl"),
    "kto": "judged.jsonl",
    **dict.fromkeys(("reward", "dpo", "ipo", "orpo", "simpo"), "pairs.jsonl"),
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft.jsonl": [
        {"prompt": user_says("the cat"), "completion": "sat on the mat"},
        {"prompt": user_says("a dog"), "completion": "ran"},
        {"prompt": user_says("the answer"), "completion": "is yes, and the answer is no"},
    ],
    "pairs.jsonl": [
        {"prompt": user_says("the cat"), "chosen": "sat on the mat", "rejected": "ran far away"},
        {"prompt": user_says("a dog"), "chosen": "ran", "rejected": "sat on the sea, please"},
        {"prompt": user_says("the answer"), "chosen": "is yes", "rejected": "no"},
    ],
    "judged.jsonl": [
        {"prompt": user_says("the cat"), "completion": "sat on the mat", "label": True},
        {"prompt": user_says("the sea"), "completion": "no", "label": False},
        {"prompt": user_says("a dog"), "chosen": "ran", "rejected": "sat on the sea, please"},
    ],
    "prompts.jsonl": [
        {"prompt": user_says(text)} for text in ("the cat", "a dog", "the sea", "yes")
    ],
}
PROBE = random_groups([(4, (5, 3))], len(toy_tokenizer()))


class SavedToys:
    """A folder of saved models, made when they are first needed, and of data files. Read only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, rows in ROWS.items():
            write_jsonl(root / name, rows)

    def model(self, architecture: str) -> str:
        folder = self.root / architecture
        return str(folder) if folder.is_dir() else save_toy(folder, architecture)

    def reward_model(self, architecture: str) -> str:
        """Its reward is (score − 0.5) / 2."""
        folder = self.root / f"{architecture}-reward"
        if not folder.is_dir():
            lm = load_scalar(self.model(architecture), new_head=True, seed=1)
            lm.score_mean, lm.score_std = 0.5, 2.0
            save_model(lm, folder, card="")
        return str(folder)

    def data(self, method: str) -> str:
        """The file of rows that a method trains on."""
        return str(self.root / DATA[method])

    def settings(
        self, method: str, architecture: str, output: Path, **overrides: Any
    ) -> TrainSettings:
        """Settings of one step of a method, on the data file of its kind."""
        online: dict[str, Any] = {}
        if method in ONLINE:
            online = {
                "reward_model": self.reward_model(architecture),
                "per_device_train_batch_size": 4,
                "max_new_tokens": 5,
            }
            online |= {"num_ppo_epochs": 1} if method == "ppo" else {"num_generations": 2}
        return SETTINGS[method](
            **{
                "model": self.model(architecture),
                "dataset": self.data(method),
                "output_dir": str(output),
                "max_steps": 1,
                "learning_rate": 1e-2,
                "max_length": 64,
                "device": "cpu",
                **online,
                **overrides,
            }
        )


def save_with_other_tokenizer(
    folder: Path, architecture: str, text: str, vocab_size: int, *, seed: int
) -> str:
    """Save an untrained model whose tokenizer was trained on another text."""
    tokenizer = train_tokenizer([text], vocab_size, 128)
    model = untrained_model(architecture, ARCHITECTURES[architecture], tokenizer, seed=seed)
    save_untrained(model, tokenizer, folder)
    return str(folder)


def train(method: str, settings: TrainSettings) -> list[StepResult]:
    """Train to the end by any method."""
    steps: Iterator[StepResult]
    if isinstance(settings, OnlineSettings):
        steps = train_online(method, settings)
    else:
        steps = train_offline(method, settings)
    return list(steps)


@torch.no_grad()
def read_probe(method: str, path: str, seed: int = 0) -> torch.Tensor:
    """Log-probs, or scores, of a few fixed tokens under a saved model."""
    if method == "reward":
        return response_scores(load_scalar(path, seed=seed, new_head=True), pack(PROBE))
    return response_logps(load_causal(path), pack(PROBE))


def assert_trained(method: str, settings: TrainSettings, results: list[StepResult]) -> None:
    """One step was taken on all rows; its metrics, reports and another model were written."""
    (result,) = results
    assert (result.step, result.total) == (1, 1)
    assert all(math.isfinite(value) for value in result.metrics.values())
    output = Path(settings.output_dir)
    before, after = read_probe(method, settings.model), read_probe(method, str(output / "model"))
    assert float((after - before).abs().max()) > 1e-4
    (row,) = read_jsonl(output / "metrics.jsonl")
    assert row["step"] == 1
    assert row["loss"] == pytest.approx(result.metrics["loss"])
    used = json.loads((output / "data.json").read_text())["encoded"]["used"]
    assert used == len(ROWS[DATA[method]])
    assert f"accord train {method}" in (output / "model" / "README.md").read_text()
