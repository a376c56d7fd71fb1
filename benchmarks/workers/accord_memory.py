"""A few steps of `accord train`, one at a time: sends the most memory used so far."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from protocol import send

from accord.learn.loop.fit import StepResult
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings


def train(args: argparse.Namespace) -> Iterator[StepResult]:
    shared: dict[str, Any] = {
        "model": str(args.folder / "model"),
        "output_dir": str(args.folder / args.method),
        "gradient_accumulation_steps": args.passes,
        "lora": {"r": 16},
        "precision": args.precision,
        "gradient_checkpointing": args.checkpointing,
        "max_steps": args.steps + 1,
        "device": "cpu",
    }
    if args.method == "dpo":
        dpo = DpoSettings(
            dataset=str(args.folder / "pairs.json"),
            per_device_train_batch_size=args.rows,
            **shared,
        )
        return train_offline("dpo", dpo)
    ppo = PpoSettings(
        dataset=str(args.folder / "prompts.json"),
        reward_model=str(args.folder / "reward"),
        critic="separate" if args.method == "ppo-separate" else "adapter",
        per_device_train_batch_size=args.passes * args.rows * 3 // 2,
        max_new_tokens=args.length,
        num_ppo_epochs=1,
        **shared,
    )
    return train_online("ppo", ppo)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("dpo", "ppo", "ppo-separate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="pairs in a forward pass")
    parser.add_argument("--passes", type=int, required=True, help="forward passes in a step")
    parser.add_argument("--length", type=int, required=True, help="tokens of a response")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    args = parser.parse_args()
    before = peak_memory_mb()
    send({"threads": torch.get_num_threads()})
    steps = train(args)
    for _ in sys.stdin:
        if next(steps, None) is None:
            return
        send({"before": before, "peak": peak_memory_mb()})


if __name__ == "__main__":
    main()
