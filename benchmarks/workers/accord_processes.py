"""A few steps of `accord train` in one of several processes, which a launcher starts: writes the
process's megabytes before the rows are read, and after each step, to `FOLDER/RANK.json`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from distinct_words import __file__ as REWARD

from accord.learn.loop.processes import barrier, processes
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.settings.stage_kinds import METHOD_SETTINGS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("dpo", "kto", "grpo"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="rows, or prompts of an iteration")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    online = args.method == "grpo"
    rows = json.loads((args.folder / "rows.json").read_text())[: args.rows]
    dataset = args.output / f"rows-{processes().rank}.json"
    dataset.write_text(json.dumps([{"prompt": r["prompt"]} for r in rows] if online else rows))
    shared = {
        "model": str(args.folder / "model"),
        "dataset": str(dataset),
        "output_dir": str(args.output / "out"),
        "device": "cpu",
        "learning_rate": 1e-6,
    }
    count = processes().world_size
    specific: dict[str, Any] = (
        {
            "rewards": [{"kind": "python", "function": f"{REWARD}:distinct"}],
            "num_generations": 2,
            "max_new_tokens": 16,
            "max_length": 2048,
            "per_device_train_batch_size": 2 * args.rows // count,
            "gradient_accumulation_steps": max(1, args.rows // 8 // count),
            "max_steps": 4,
        }
        if online
        else {"per_device_train_batch_size": 8 // count, "max_steps": 2}
    )
    train: Any = train_online if online else train_offline
    peaks = [peak_memory_mb()]
    for _ in train(args.method, METHOD_SETTINGS[args.method](**shared, **specific)):
        peaks.append(peak_memory_mb())
    (args.output / f"{processes().rank}.json").write_text(json.dumps(peaks))
    barrier()


if __name__ == "__main__":
    main()
