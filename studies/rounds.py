"""Rounds over several seeds: what each adds to the true reward, and what it costs.

    python studies/rounds.py --seeds 5 --output-dir runs/rounds
    python studies/rounds.py --seeds 5 --output-dir runs/moving iterate.reference=moving

Runs the recipe `iterate` once per seed (finished seeds are not run again), then writes summary.json
and prints a table in Markdown: means over seeds with Student's t intervals. A gain is the
difference from the first model of the same seed, and a step that from the round before, so their
intervals are of paired differences. With --jobs 2, two seeds run at a time and share the threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from over_seeds import format_interval, run_seeds

from accord.measure.statistics import Interval, mean_interval
from accord.report.tables.rounds import value_with_bounds
from accord.runs import write_json_atomic

MEASURES = (
    ("true_reward", "true reward", 3),
    ("gain", "gain over round 0", 3),
    ("step", "gain over the round before", 3),
    ("kl", "KL (nats)", 2),
    ("win_rate", "wins against round 0", 2),
    ("mean_length", "words", 1),
    ("distinct_2", "distinct-2", 3),
)


def summarise(runs: Sequence[Path]) -> list[dict[str, Interval]]:
    """For each round from 0 on, the means and intervals over the seeds; round 0 gained nothing."""
    by_seed = [_read_rounds(run) for run in runs]
    summary = []
    for number in range(min(len(rounds) for rounds in by_seed)):
        current = [rounds[number] for rounds in by_seed]
        row = {}
        if number:
            row["gain"] = _gains(current, [rounds[0] for rounds in by_seed])
            row["step"] = _gains(current, [rounds[number - 1] for rounds in by_seed])
        for key, _, _ in MEASURES:
            values = [measures[key] for measures in current if key in measures]
            if values:
                row[key] = mean_interval(values)
        summary.append(row)
    return summary


def _gains(
    later: Sequence[Mapping[str, float]], earlier: Sequence[Mapping[str, float]]
) -> Interval:
    """The mean gain in true reward, paired by seed."""
    pairs = zip(later, earlier, strict=True)
    return mean_interval([a["true_reward"] - b["true_reward"] for a, b in pairs])


def _read_rounds(run: Path) -> list[dict[str, float]]:
    """The measures of each round of a seed's run, without those that are missing."""
    rows = json.loads((run / "iterate/rounds.json").read_text(encoding="utf-8"))["rounds"]
    rounds = [{key: value_with_bounds(row, key)[0] for key, _, _ in MEASURES} for row in rows]
    return [{k: v for k, v in measures.items() if v is not None} for measures in rounds]


def markdown(summary: Sequence[Mapping[str, Interval]]) -> str:
    lines = [
        f"| round | {' | '.join(heading for _, heading, _ in MEASURES)} |",
        "|---" * (len(MEASURES) + 1) + "|",
    ]
    for number, row in enumerate(summary):
        cells = [
            format_interval(row[key], digits) if key in row else "" for key, _, digits in MEASURES
        ]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(summary: Sequence[Mapping[str, Interval]]) -> str:
    """Says which rounds are not shown to gain over the round before."""
    lows = [row["step"].low for row in summary[1:]]
    without_gain = [str(n) for n, low in enumerate(lows, start=1) if low is None or low <= 0]
    if not without_gain:
        return "Every round gains over the one before: each interval is above zero."
    return f"Not shown to gain over the round before: round {', '.join(without_gain)}."


def main() -> None:
    seeds = run_seeds("iterate", __doc__, "runs/rounds")
    summary = summarise(seeds.runs)
    rounds = [{key: interval.to_json() for key, interval in row.items()} for row in summary]
    write_json_atomic(
        seeds.folder / "summary.json", {"rounds": rounds, "seconds": list(seeds.seconds)}
    )
    print(f"{markdown(summary)}\n\n{verdict(summary)}\n{seeds.summary_line()}")


if __name__ == "__main__":
    main()
