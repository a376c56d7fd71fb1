"""A world that is built in a second, and commands that train on it, for tests and kills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accord.lm import load_scalar, save_model
from accord.settings.stages import WorldSettings
from accord.world.build import build_world


def build_tiny_world(folder: Path) -> Path:
    """The embedded world with a few prompts, a model of some 35,000 parameters, and a reward
    model whose head is random, since any score will do."""
    settings = WorldSettings(
        output_dir=str(folder),
        demonstrations=64,
        corpus=64,
        train_prompts=24,
        test_prompts=12,
        vocab_size=700,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    build_world(settings)
    reward_model = load_scalar(str(folder / "model"), new_head=True, device="cpu")
    save_model(reward_model, folder / "reward", card="")
    return folder


def train_command(method: str, settings: Mapping[str, object]) -> list[str]:
    """The command `accord train` with settings, into the folder `out`."""
    return ["train", method, "output_dir=out", *(f"{k}={v}" for k, v in settings.items())]


def tiny_ppo_command(world: Path, *, steps: int, save_steps: int, **overrides: object) -> list[str]:
    """PPO on the world's prompts, with overriding settings."""
    settings = {
        "model": world / "model",
        "reward_model": world / "reward",
        "dataset": world / "train_prompts.jsonl",
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "max_new_tokens": 12,
        "max_length": 160,
        "learning_rate": 0.001,
        "adaptive_kl_target": 0.1,
        "adaptive_kl_horizon": 100,
        "save_steps": save_steps,
        **overrides,
    }
    return train_command("ppo", settings)


def tiny_rounds_command(world: Path, *, rounds: int, steps: int, save_steps: int) -> list[str]:
    """Rounds of DPO on rankings by the world's annotators, of `steps` each, on the verdicts of all
    rounds so far."""
    settings = {
        "model": world / "model",
        "dataset": world / "train_prompts.jsonl",
        "eval_dataset": world / "test_prompts.jsonl",
        "rounds": rounds,
        "prompts_per_round": 12,
        "num_responses": 3,
        "max_new_tokens": 12,
        "temperature": 4,  # an untrained model's likeliest answers are blank
        "batch_size": 3,
        "form": "rankings",
        "keep_data": "all",
        "train.method": "dpo",
        "train.learning_rate": 0.001,
        "train.max_steps": steps,
        "train.per_device_train_batch_size": 4,
        "train.save_steps": save_steps,
    }
    return ["iterate", "output_dir=out", *(f"{k}={v}" for k, v in settings.items())]
