"""PPO, GRPO and RLOO over several seeds: how far to the best of 64, and what a flaw does.

    python studies/online.py --seeds 5 --output-dir runs/online-seeds

Runs the recipe `online` once a seed (finished seeds are not run again), then writes summary.json
and prints tables in Markdown: means over seeds with Student's t intervals. `covered` is the share
of the distance in true reward from SFT to the best of its 64 responses by the truth. With --jobs 2,
two seeds run at a time and share the threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from over_seeds import results_of, run_seeds, told

from accord.measure.statistics import Interval, mean_interval
from accord.runs import write_json_atomic

METHODS = ("sft", "ppo", "grpo", "rloo")
FLAWED = ("hacked", "held")
CEILING = "true best-of-64"


def summarise(runs: Sequence[Path]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Of the methods against a sound reward model, and of PPO against the flawed one."""
    seeds = [{row["model"]: row for row in results_of(run)["models"]} for run in runs]
    methods = {
        model: {
            **{k: mean_interval([s[model][k] for s in seeds]) for k in ("true_reward", "kl")},
            "covered": mean_interval([covered(s, model) for s in seeds]),
            "mean_length": mean_interval([s[model]["mean_length"] for s in seeds]),
        }
        for model in METHODS
    }
    flawed = {
        model: {
            "proxy_gain": mean_interval([s[model]["proxy_gain"] for s in seeds]),
            "true_gain": mean_interval(
                [s[model]["true_reward"] - s["sft"]["true_reward"] for s in seeds]
            ),
            **{k: mean_interval([s[model][k] for s in seeds]) for k in ("kl", "mean_length")},
        }
        for model in FLAWED
    }
    return {"methods": methods, "flawed": flawed}


def covered(rows: dict[str, dict[str, Any]], model: str) -> float:
    start, best = rows["sft"]["true_reward"], rows[CEILING]["true_reward"]
    return float((rows[model]["true_reward"] - start) / (best - start))


def markdown(summary: dict[str, dict[str, dict[str, Interval]]]) -> str:
    lines = ["| model | true reward | covered | KL (nats) | words |", "|---|---|---|---|---|"]
    for model, row in summary["methods"].items():
        lines.append(
            f"| {model} | {told(row['true_reward'])} | {told(row['covered'], 2)} "
            f"| {told(row['kl'], 2)} | {told(row['mean_length'], 1)} |"
        )
    lines += [
        "",
        "| model | gain by the flawed reward model | gain in true reward | KL (nats) | words |",
    ]
    lines.append("|---|---|---|---|---|")
    for model, row in summary["flawed"].items():
        lines.append(
            f"| {model} | {told(row['proxy_gain'], 2)} | {told(row['true_gain'])} "
            f"| {told(row['kl'], 2)} | {told(row['mean_length'], 1)} |"
        )
    return "\n".join(lines)


def main() -> None:
    seeds = run_seeds("online", __doc__, "runs/online-seeds")
    summary = summarise(seeds.runs)
    plain = {
        part: {m: {k: v.to_json() for k, v in row.items()} for m, row in rows.items()}
        for part, rows in summary.items()
    }
    write_json_atomic(seeds.folder / "summary.json", {**plain, "seconds": seeds.seconds})
    print(f"{markdown(summary)}\n\n{seeds.told()}")


if __name__ == "__main__":
    main()
