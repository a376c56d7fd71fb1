"""Iterations of `accord train grpo` or `ppo`, one at a time: sends seconds and memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from distinct_words import __file__ as REWARD
from file_order import arrange_for_file_order
from protocol import online_arguments, send, wait_for_device

from accord.learn.loop.stage import peak_memory_mb
from accord.learn.online.train import train_online
from accord.settings.stage_kinds import METHOD_SETTINGS

MICRO_BATCH = 16  # episodes in a forward pass of PPO; TRL's worker has 8


def write_prompts(folder: Path, count: int, seed: int) -> Path:
    """Write the first `count` prompts, arranged to be visited in the order of rows.json."""
    rows = json.loads((folder / "rows.json").read_text())[:count]
    path = folder / f"prompts-{count}.jsonl"
    prompts = [{"prompt": row["prompt"]} for row in arrange_for_file_order(rows, seed)]
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return path


def main() -> None:
    args = online_arguments()
    method, _, variant = args.method.partition("-")
    prompts = args.episodes if method == "ppo" else args.episodes // args.group * args.steps
    method_settings: dict[str, Any] = (
        {
            "reward_model": str(args.folder / "reward"),
            "num_ppo_epochs": 4,
            "critic": "shared" if variant == "shared" else None,
            "gradient_accumulation_steps": max(1, args.episodes // MICRO_BATCH),
        }
        if method == "ppo"
        else {
            "rewards": [{"kind": "python", "function": f"{REWARD}:distinct"}],
            "num_generations": args.group,
            "beta": 0.05,
        }
    )
    settings: Any = METHOD_SETTINGS[method](
        model=str(args.folder / "model"),
        dataset=str(write_prompts(args.folder, prompts, seed=0)),
        output_dir=str(args.folder / f"accord-{args.method}"),
        per_device_train_batch_size=args.episodes,
        max_new_tokens=args.tokens,
        max_steps=args.steps,
        precision=args.precision,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_length=2048,
        device=args.device,
        seed=0,
        lora={} if variant == "lora" else None,
        **method_settings,
    )
    steps = train_online(method, settings)
    send({"threads": torch.get_num_threads()})
    for _ in sys.stdin:
        start_time = time.perf_counter()
        result = next(steps, None)
        if result is None:
            return
        wait_for_device()
        send(
            {
                "step": time.perf_counter() - start_time,
                "memory": peak_memory_mb(),
                "length": result.metrics["response_length"],
            }
        )


if __name__ == "__main__":
    main()
