"""The demo over several seeds: does each method close half the distance to what is possible?

    python studies/demo_seeds.py --seeds 5 --output-dir runs/seeds

Runs the recipe `demo` once a seed (finished seeds are not run again), then writes summary.json and
prints a table in Markdown: means over seeds with Student's t intervals. With --jobs 2, two seeds
run at a time on one thread each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from over_seeds import results_of, run_seeds, told

from accord.measure.statistics import mean_interval
from accord.runs import write_json_atomic

MODELS = ("base", "sft", "dpo", "ppo", "best-of-16", "true best-of-64")
METHODS = ("dpo", "ppo", "best-of-16")
CEILING = "true best-of-64"


def shares(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How much of the distance from SFT to the ceiling each method has covered."""
    start, best = rows["sft"]["true_reward"], rows[CEILING]["true_reward"]
    return {m: (rows[m]["true_reward"] - start) / (best - start) for m in METHODS}


def summarise(folders: Sequence[Path]) -> dict[str, Any]:
    """Means and intervals over the seeds of what results.json holds."""
    results = [results_of(folder) for folder in folders]
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
    seeds = run_seeds("demo", __doc__, "runs/seeds")
    summary = summarise(seeds.runs)
    plain = {
        "models": {m: {k: v.to_json() for k, v in r.items()} for m, r in summary["models"].items()},
        "covered": {m: v.to_json() for m, v in summary["covered"].items()},
        "reward_model_clear_accuracy": summary["reward_model_clear_accuracy"].to_json(),
        "seconds": seeds.seconds,
    }
    write_json_atomic(seeds.folder / "summary.json", plain)
    print(f"{markdown(summary)}\n\n{seeds.told()}")


if __name__ == "__main__":
    main()
