"""The demo over several seeds: does each method close half the distance to the ceiling?

    python studies/demo_seeds.py --seeds 5 --output-dir runs/seeds

Runs the recipe `demo` once per seed (finished seeds are not run again), then writes summary.json
and prints a table in Markdown: means over seeds with Student's t intervals. With --jobs 2, two
seeds run at a time on one thread each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from over_seeds import (
    CEILING,
    covered_share,
    format_interval,
    read_model_rows,
    read_results,
    run_seeds,
)

from accord.measure.statistics import mean_interval
from accord.runs import write_json_atomic

MODELS = ("base", "sft", "dpo", "ppo", "best-of-16", CEILING)
METHODS = ("dpo", "ppo", "best-of-16")


def summarise(runs: Sequence[Path]) -> dict[str, Any]:
    """Means and intervals over the seeds of what results.json holds."""
    by_seed = [read_model_rows(run) for run in runs]
    table = {
        model: {
            key: mean_interval([rows[model][key] for rows in by_seed])
            for key in ("true_reward", "reward_model_score", "kl", "elo", "mean_length")
        }
        for model in MODELS
    }
    covered = {m: mean_interval([covered_share(rows, m) for rows in by_seed]) for m in METHODS}
    accuracy = mean_interval(
        [read_results(run)["reward_model"]["clear_accuracy"]["mean"] for run in runs]
    )
    return {"models": table, "covered": covered, "reward_model_clear_accuracy": accuracy}


def markdown(summary: dict[str, Any]) -> str:
    lines = [
        "| model | true reward | covered | reward model | KL (nats) | Elo | words |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in summary["models"].items():
        share = summary["covered"].get(model)
        covered = "" if share is None else format_interval(share, 2)
        lines.append(
            f"| {model} | {format_interval(row['true_reward'])} | {covered} "
            f"| {format_interval(row['reward_model_score'], 2)} | {format_interval(row['kl'], 2)} "
            f"| {format_interval(row['elo'], 0)} | {format_interval(row['mean_length'], 1)} |"
        )
    accuracy = format_interval(summary["reward_model_clear_accuracy"])
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
    print(f"{markdown(summary)}\n\n{seeds.summary_line()}")


if __name__ == "__main__":
    main()
