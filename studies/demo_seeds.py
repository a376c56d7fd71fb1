"""The demo over several seeds: does each method close half the distance to what is possible?

    python studies/demo_seeds.py --seeds 5 --output-dir runs/seeds

Runs `accord demo` once a seed (finished seeds are not run again), then writes summary.json and
prints a table in Markdown: means over seeds with Student's t intervals. With --jobs 2, two seeds
run at a time on one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accord.measure.statistics import Interval, mean_interval
from accord.runs import write_json_atomic

MODELS = ("base", "sft", "dpo", "ppo", "best-of-16", "true best-of-64")
METHODS = ("dpo", "ppo", "best-of-16")
CEILING = "true best-of-64"


def run_seed(seed: int, folder: Path, jobs: int) -> float:
    """Run the demo with a seed; returns the seconds of its stages."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    command = [sys.executable, "-m", "accord", "demo", "--seed", str(seed)]
    log = folder / f"seed-{seed}.log"
    with log.open("w") as out:
        subprocess.run(
            [*command, "--output-dir", str(folder / f"seed-{seed}")],
            check=True,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
    stages = (folder / f"seed-{seed}").glob("**/stage.json")
    return sum(float(json.loads(s.read_text())["seconds"]) for s in stages)


def shares(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How much of the distance from SFT to the ceiling each method has covered."""
    start, best = rows["sft"]["true_reward"], rows[CEILING]["true_reward"]
    return {m: (rows[m]["true_reward"] - start) / (best - start) for m in METHODS}


def told(interval: Interval, digits: int = 3) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {interval.high - interval.mean:.{digits}f}"


def summarise(folders: Sequence[Path]) -> dict[str, Any]:
    """Means and intervals over the seeds of what results.json holds."""
    results = [json.loads((f / "results.json").read_text()) for f in folders]
    by_model = [{row["model"]: row for row in r["models"]} for r in results]
    table = {
        model: {
            key: mean_interval([rows[model][key] for rows in by_model])
            for key in ("true_reward", "reward_model_score", "kl", "elo", "mean_length")
        }
        for model in MODELS
    }
    covered = {m: mean_interval([shares(rows)[m] for rows in by_model]) for m in METHODS}
    accuracy = mean_interval([r["reward_model"]["clear_accuracy"]["mean"] for r in results])
    return {"models": table, "covered": covered, "reward_model_clear_accuracy": accuracy}


def markdown(summary: dict[str, Any]) -> str:
    lines = [
        "| model | true reward | covered | reward model | KL (nats) | Elo | words |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in summary["models"].items():
        share = summary["covered"].get(model)
        lines.append(
            f"| {model} | {told(row['true_reward'])} | {'' if share is None else told(share, 2)} "
            f"| {told(row['reward_model_score'], 2)} | {told(row['kl'], 2)} "
            f"| {told(row['elo'], 0)} | {told(row['mean_length'], 1)} |"
        )
    accuracy = told(summary["reward_model_clear_accuracy"])
    lines += ["", f"Reward model on unseen pairs that differ clearly: {accuracy}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/seeds"))
    options = parser.parse_args()
    folder: Path = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        seconds = list(pool.map(lambda s: run_seed(s, folder, options.jobs), range(options.seeds)))
    summary = summarise([folder / f"seed-{s}" for s in range(options.seeds)])
    plain = {
        "models": {m: {k: v.to_json() for k, v in r.items()} for m, r in summary["models"].items()},
        "covered": {m: v.to_json() for m, v in summary["covered"].items()},
        "reward_model_clear_accuracy": summary["reward_model_clear_accuracy"].to_json(),
        "seconds": seconds,
    }
    write_json_atomic(folder / "summary.json", plain)
    print(markdown(summary))
    print(
        f"\n{options.seeds} seeds, {min(seconds):.0f} to {max(seconds):.0f} s each with "
        f"{options.jobs} at a time; {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    main()
