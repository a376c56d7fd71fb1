"""A few steps of `accord train` in a process of its own, and the most memory that they used."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings

PASSES = 4  # forward passes in a step
LENGTH = 90  # tokens of a response


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def steps_of(given: argparse.Namespace, folder: Path) -> Iterator[StepResult]:
    shared: dict[str, Any] = {
        "model": str(folder / "model"),
        "output_dir": str(folder / given.method),
        "gradient_accumulation_steps": PASSES,
        "lora": {"r": 16},
        "precision": given.precision,
        "gradient_checkpointing": given.checkpointing,
        "max_steps": given.steps + 1,
        "device": "cpu",
    }
    if given.method == "dpo":
        settings = DpoSettings(
            dataset=str(folder / "pairs.json"), per_device_train_batch_size=given.rows, **shared
        )
        return train_offline("dpo", settings)
    ppo = PpoSettings(
        dataset=str(folder / "prompts.json"),
        reward_model=str(folder / "reward"),
        critic="separate" if given.method == "ppo-separate" else "adapter",
        per_device_train_batch_size=PASSES * given.rows * 3 // 2,
        max_new_tokens=LENGTH,
        num_ppo_epochs=1,
        **shared,
    )
    return train_online("ppo", ppo)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("dpo", "ppo", "ppo-separate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=8, help="pairs in a forward pass")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    given = parser.parse_args()
    before = peak_memory_mb()
    tell({"threads": torch.get_num_threads()})
    steps = steps_of(given, given.folder)
    for _ in sys.stdin:
        if next(steps, None) is None:
            return
        tell({"before": before, "peak": peak_memory_mb()})


if __name__ == "__main__":
    main()
