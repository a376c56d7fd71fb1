"""PPO, GRPO and RLOO over several seeds: how far to the best of 64, and what a flaw does.

    python studies/online.py --seeds 5 --output-dir runs/online-seeds

Runs the recipe `online` once per seed (finished seeds are not run again), then writes summary.json
and prints tables in Markdown: means over seeds with Student's t intervals. `covered` is the share
of the distance in true reward from SFT to the best of its 64 responses by the truth. With --jobs 2,
two seeds run at a time and share the threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from over_seeds import covered_share, format_interval, read_model_rows, run_seeds

from accord.measure.statistics import Interval, mean_interval
from accord.runs import write_json_atomic

METHODS = ("sft", "ppo", "grpo", "rloo")
FLAWED = ("hacked", "held")


def summarise(runs: Sequence[Path]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Means with intervals: of methods with a sound reward model, and of PPO with a flawed one."""
    by_seed = [read_model_rows(run) for run in runs]

    def mean(model: str, key: str) -> Interval:
        return mean_interval([rows[model][key] for rows in by_seed])

    methods = {
        model: {
            "true_reward": mean(model, "true_reward"),
            "kl": mean(model, "kl"),
            "covered": mean_interval([covered_share(rows, model) for rows in by_seed]),
            "mean_length": mean(model, "mean_length"),
        }
        for model in METHODS
    }
    flawed = {
        model: {
            "proxy_gain": mean(model, "proxy_gain"),
            "true_gain": mean_interval(
                [rows[model]["true_reward"] - rows["sft"]["true_reward"] for rows in by_seed]
            ),
            "kl": mean(model, "kl"),
            "mean_length": mean(model, "mean_length"),
        }
        for model in FLAWED
    }
    return {"methods": methods, "flawed": flawed}


def markdown(summary: dict[str, dict[str, dict[str, Interval]]]) -> str:
    lines = ["| model | true reward | covered | KL (nats) | words |", "|---|---|---|---|---|"]
    for model, row in summary["methods"].items():
        lines.append(
            f"| {model} | {format_interval(row['true_reward'])} "
            f"| {format_interval(row['covered'], 2)} | {format_interval(row['kl'], 2)} "
            f"| {format_interval(row['mean_length'], 1)} |"
        )
    lines += [
        "",
        "| model | gain by the flawed reward model | gain in true reward | KL (nats) | words |",
    ]
    lines.append("|---|---|---|---|---|")
    for model, row in summary["flawed"].items():
        lines.append(
            f"| {model} | {format_interval(row['proxy_gain'], 2)} "
            f"| {format_interval(row['true_gain'])} | {format_interval(row['kl'], 2)} "
            f"| {format_interval(row['mean_length'], 1)} |"
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
    print(f"{markdown(summary)}\n\n{seeds.summary_line()}")


if __name__ == "__main__":
    main()
