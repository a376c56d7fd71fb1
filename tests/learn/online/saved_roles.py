"""Saved models for the roles of PPO, and settings that load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accord.lm.load import load_scalar, save_model
from accord.lm.packing import PackedBatch, pack
from accord.settings.ppo import PpoSettings
from tests.learn.toys.files import write_jsonl
from tests.lm.toys import random_groups, save_toy, toy_tokenizer, with_adapters

GROUPS = random_groups([(5, (3,)), (2, (4,)), (7, (6,))], len(toy_tokenizer()))
LORA = {"r": 2}
# Where the critic is, and whether the policy is trained by LoRA.
CRITICS: list[tuple[str | None, dict[str, int] | None]] = [
    (None, LORA),
    ("separate", LORA),
    ("shared", LORA),
    (None, None),
    ("shared", None),
]


class RoleToys:
    """Paths of a model, a reward model that is an adapter on it, one that is whole, and prompts.
    Read only."""

    def __init__(self, root: Path) -> None:
        self.base = save_toy(root / "base")
        self.adapter_reward = str(root / "rm")
        lm = with_adapters(load_scalar(self.base, new_head=True, seed=3), seed=5)
        lm.score_mean, lm.score_std = 0.75, 2.0
        save_model(lm, Path(self.adapter_reward), card="")
        self.whole_reward = str(root / "full")
        save_model(load_scalar(self.base, new_head=True, seed=4), Path(self.whole_reward), card="")
        self.prompts = write_jsonl(
            root / "prompts.jsonl", ({"prompt": text} for text in ("the cat", "a dog", "yes"))
        )


def ppo_settings(roles: RoleToys, output: Path | str = "nowhere", **overrides: Any) -> PpoSettings:
    return PpoSettings(
        **{
            "model": roles.base,
            "reward_model": roles.adapter_reward,
            "dataset": roles.prompts,
            "output_dir": str(output),
            "per_device_train_batch_size": 4,
            "max_new_tokens": 5,
            "num_ppo_epochs": 1,
            "learning_rate": 1e-2,
            "max_length": 64,
            "device": "cpu",
            **overrides,
        }
    )


def probe_batch() -> PackedBatch:
    """A few fixed tokens, to compare models on."""
    return pack(GROUPS)
