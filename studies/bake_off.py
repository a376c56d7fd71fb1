"""The bake-off over several seeds: does each method improve the true reward over SFT?

    python studies/bake_off.py --seeds 5 --output-dir runs/bake-offs

Runs the recipe `bake-off` once per seed (finished seeds are not run again), then writes
summary.json and prints a table in Markdown: means over seeds with Student's t intervals. A gain is
the difference from SFT of the same seed, so its interval is of paired differences. With --jobs 2,
two seeds run at a time and share the threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from over_seeds import format_interval, read_model_rows, run_seeds

from accord.measure.statistics import Interval, mean_interval
from accord.runs import read_metrics, write_json_atomic

START = "sft"
MEASURES = (("true_reward", 3), ("gain", 3), ("kl", 2), ("mean_length", 1), ("elo", 0))
Row = Mapping[str, Any]


def summarise(runs: Sequence[Path]) -> dict[str, dict[str, Interval]]:
    """For each model the means and intervals over the seeds, and the tokens it was trained on."""
    by_seed = [read_model_rows(run) for run in runs]
    summary = {}
    for model in by_seed[0]:
        rows = [models[model] for models in by_seed]
        starts = [models[START]["true_reward"] for models in by_seed]
        gains = [row["true_reward"] - start for row, start in zip(rows, starts, strict=True)]
        tokens = [read_metrics(run / model / "metrics.jsonl")[-1]["num_tokens"] for run in runs]
        summary[model] = {
            **{k: mean_interval([row[k] for row in rows]) for k, _ in MEASURES if k != "gain"},
            "gain": mean_interval(gains),
            "tokens": mean_interval(tokens),
        }
    return summary


def markdown(summary: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [
        "| model | true reward | gain over SFT | KL (nats) | words | Elo | tokens trained on |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in summary.items():
        cells = [
            "" if k == "gain" and model == START else format_interval(row[k], d)
            for k, d in MEASURES
        ]
        lines.append(f"| {model} | {' | '.join(cells)} | {row['tokens'].mean:,.0f} |")
    return "\n".join(lines)


def verdict(summary: Mapping[str, Mapping[str, Interval]]) -> str:
    """Says whether every method's gain has an interval above zero, and names those without."""
    without_gain = [
        model
        for model, row in summary.items()
        if model != START and (row["gain"].low is None or row["gain"].low <= 0)
    ]
    if without_gain:
        return f"Not shown to gain over SFT: {', '.join(without_gain)}."
    return "Every method's gain over SFT has an interval above zero."


def main() -> None:
    seeds = run_seeds("bake-off", __doc__, "runs/bake-offs")
    summary = summarise(seeds.runs)
    write_json_atomic(
        seeds.folder / "summary.json",
        {
            "models": {m: {k: v.to_json() for k, v in r.items()} for m, r in summary.items()},
            "seconds": seeds.seconds,
        },
    )
    print(f"{markdown(summary)}\n\n{verdict(summary)}\n{seeds.summary_line()}")


if __name__ == "__main__":
    main()
