"""Iterations of `accord train grpo` or `ppo`: waits for a line, takes one, tells its seconds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from distinct_words import __file__ as REWARD
from lockstep import online_arguments

from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.online.train import train_online
from accord.settings.stage_kinds import METHOD_SETTINGS

A_PASS = 16  # episodes in a forward pass of PPO; the other side has 8


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def in_order(folder: Path, count: int, seed: int) -> Path:
    """The first `count` prompts, laid so that the shuffled order deals them as in the file."""
    rows = json.loads((folder / "rows.json").read_text())[:count]
    order = RowOrder(len(rows), seed)
    places = {order.at(i): row["prompt"] for i, row in enumerate(rows)}
    place = folder / f"prompts-{count}.jsonl"
    lines = [json.dumps({"prompt": places[i]}) for i in range(len(rows))]
    place.write_text("\n".join(lines) + "\n")
    return place


def main() -> None:
    given = online_arguments()
    method, _, kind = given.method.partition("-")
    prompts = given.episodes if method == "ppo" else given.episodes // given.group * given.steps
    own: dict[str, Any] = (
        {
            "reward_model": str(given.folder / "reward"),
            "num_ppo_epochs": 4,
            "critic": "shared" if kind == "shared" else None,
            "gradient_accumulation_steps": max(1, given.episodes // A_PASS),
        }
        if method == "ppo"
        else {
            "rewards": [{"kind": "python", "function": f"{REWARD}:distinct"}],
            "num_generations": given.group,
            "beta": 0.05,
        }
    )
    settings: Any = METHOD_SETTINGS[method](
        model=str(given.folder / "model"),
        dataset=str(in_order(given.folder, prompts, seed=0)),
        output_dir=str(given.folder / f"accord-{given.method}"),
        per_device_train_batch_size=given.episodes,
        max_new_tokens=given.tokens,
        max_steps=given.steps,
        precision=given.precision,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_length=2048,
        device="cpu",
        seed=0,
        lora={} if kind == "lora" else None,
        **own,
    )
    steps = train_online(method, settings)
    tell({"threads": torch.get_num_threads()})
    for _ in sys.stdin:
        began = time.perf_counter()
        result = next(steps, None)
        if result is None:
            return
        tell(
            {
                "step": time.perf_counter() - began,
                "memory": peak_memory_mb(),
                "length": result.metrics["response_length"],
            }
        )


if __name__ == "__main__":
    main()
