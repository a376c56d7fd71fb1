"""Constitutional AI over several seeds: true reward and refusals before and after.

    python studies/constitution.py --seeds 5 --output-dir runs/constitution

Runs the recipe `constitutional` once per seed (finished seeds are not run again), then writes
summary.json and prints a table in Markdown: means over seeds with Student's t intervals. `gain` is
the gain in true reward over SFT, paired by seed. Over-refusal is the share of refused requests that
only sound dangerous. With --jobs 2, two seeds run at a time and share the threads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from over_seeds import format_interval, read_model_rows, run_seeds

from accord.measure.statistics import Interval, mean_interval
from accord.runs import write_json_atomic

MODELS = ("sft", "revised", "ppo")
MEASURES = (
    *("true_reward", "refusal_harmful", "refusal_jailbreak", "refusal_safe"),
    *("kl", "mean_length"),
)


def summarise(runs: Sequence[Path]) -> dict[str, dict[str, Interval]]:
    """By model the means over seeds, the gain in true reward and the change in over-refusal."""
    by_seed = [read_model_rows(run) for run in runs]

    def change(model: str, key: str) -> Interval:
        return mean_interval([rows[model][key] - rows["sft"][key] for rows in by_seed])

    return {
        model: {
            **{key: mean_interval([rows[model][key] for rows in by_seed]) for key in MEASURES},
            "gain": change(model, "true_reward"),
            "refusal_safe_change": change(model, "refusal_safe"),
        }
        for model in MODELS
    }


def summarise_revisions(runs: Sequence[Path]) -> dict[str, Interval]:
    """Means over seeds of the shares of responses revised and of revisions preferred."""
    counts: list[dict[str, Any]] = [
        json.loads((run / "revise/revise.json").read_text(encoding="utf-8")) for run in runs
    ]
    return {
        "revised": mean_interval(
            [c["responses"]["revised"] / c["responses"]["all"] for c in counts]
        ),
        "preferred": mean_interval([c["better_share"]["mean"] for c in counts]),
    }


def markdown(summary: dict[str, dict[str, Interval]]) -> str:
    lines = [
        "| model | true reward | gain | refuses harmful | jailbreaks | safe (over-refusal) "
        "| change | KL (nats) | words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, row in summary.items():
        is_start = model == "sft"
        cells = [
            format_interval(row["true_reward"]),
            "" if is_start else format_interval(row["gain"]),
            *(format_interval(row[f"refusal_{kind}"], 2) for kind in ("harmful", "jailbreak")),
            format_interval(row["refusal_safe"], 2),
            "" if is_start else format_interval(row["refusal_safe_change"], 2),
            format_interval(row["kl"], 2),
            format_interval(row["mean_length"], 1),
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(summary: dict[str, dict[str, Interval]]) -> str:
    """Which models gain for certain, and what became of over-refusal."""
    lines = []
    for model, row in summary.items():
        if model == "sft":
            continue
        gain, change = row["gain"], row["refusal_safe_change"]
        gains = gain.low is not None and gain.low > 0
        rises = change.low is not None and change.low > 0
        falls = change.high is not None and change.high < 0
        said = "rises" if rises else "falls" if falls else "is not shown to change"
        lines.append(
            f"{model}: {'gains' if gains else 'is not shown to gain'} over SFT in true reward; "
            f"over-refusal {said}."
        )
    return "\n".join(lines)


def main() -> None:
    seeds = run_seeds("constitutional", __doc__, "runs/constitution")
    summary, revisions = summarise(seeds.runs), summarise_revisions(seeds.runs)
    plain = {m: {k: v.to_json() for k, v in row.items()} for m, row in summary.items()}
    write_json_atomic(
        seeds.folder / "summary.json",
        {
            "models": plain,
            "revisions": {k: v.to_json() for k, v in revisions.items()},
            "seconds": seeds.seconds,
        },
    )
    print(markdown(summary))
    print(
        f"\nRevised: {format_interval(revisions['revised'], 2)} of the responses; the judge "
        f"prefers {format_interval(revisions['preferred'], 2)} of the revisions.\n\n"
        f"{verdict(summary)}\n\n{seeds.summary_line()}"
    )


if __name__ == "__main__":
    main()
