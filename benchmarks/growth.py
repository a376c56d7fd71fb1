"""How a DPO step's cost grows with the responses' length, K, vocabulary and model size.

Prints seconds and memory, and draws them with `--figure docs/performance.svg`. Each point is
measured in a new process, for its peak memory; the reference is precomputed, as in
`accord train dpo`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from machine_report import version_line, write_json
from matplotlib.figure import Figure
from workers.lockstep import Worker
from workers.workload import Workload, write_workload

from accord.runs import machine

BASE = Workload(prompt=120, response=96, rows=64)
# By name of what varies: its values, and the workload and rows per step of a value.
AXES: dict[str, tuple[Sequence[int], Any]] = {
    "tokens a response": ((48, 96, 192, 384), lambda n: (replace(BASE, response=n), 8)),
    "responses a prompt (K)": ((2, 4, 8, 12), lambda n: (replace(BASE, responses=n), 4)),
    "vocabulary, thousands": (
        (8, 32, 96, 150),
        lambda n: (replace(BASE, vocabulary=n * 1000), 8),
    ),
    "layers": ((2, 4, 8, 16), lambda n: (replace(BASE, layers=n), 8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="also draw them here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = machine()
    heading = f"{version_line()}, {facts['cpu']}, {facts['cores']} cores"
    print(heading)
    points: dict[str, list[dict[str, float]]] = {}
    for axis, (values, make_workload) in AXES.items():
        points[axis] = []
        for value in values:
            work, rows = make_workload(value)
            point = {"value": value, **measure(_with_cutoff(work), rows, args.steps)}
            points[axis].append(point)
            print(
                f"{axis} {value}: {point['seconds']:.2f} s, {point['memory'] / 1024:.2f} GB, "
                f"{point['tokens']:.0f} tokens",
                flush=True,
            )
        print(f"  seconds grow with {axis} to the power of {_power(points[axis]):.2f}")
    if args.figure:
        draw(points, heading).savefig(args.figure)
    write_json(args.json, {"machine": facts, "found": points})


def _with_cutoff(work: Workload) -> Workload:
    """Cut lengths at four times the mean, so that all means have the same distribution."""
    return replace(work, longest=4 * max(work.prompt, work.response))


def measure(work: Workload, rows: int, steps: int) -> dict[str, float]:
    """Median seconds, peak MiB and mean tokens of a step, after one that does not count."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        write_workload(work, folder)
        arguments = ("--rows", str(rows), "--steps", str(steps + 2))
        worker = Worker(sys.executable, "accord_steps.py", "dpo", str(folder), *arguments)
        try:
            results = [worker.step() for _ in range(steps + 1)][1:]
        finally:
            worker.close()
    return {
        "seconds": statistics.median(r["step"] for r in results),
        "memory": max(r["memory"] for r in results),
        "tokens": statistics.mean(r["tokens"] for r in results),
    }


def _power(points: Sequence[dict[str, float]]) -> float:
    """The slope of log seconds against the log of the value: 1 is linear."""
    x = np.log([p["value"] for p in points])
    y = np.log([p["seconds"] for p in points])
    return float(np.polyfit(x, y, 1)[0])


def draw(points_by_axis: dict[str, list[dict[str, float]]], heading: str) -> Figure:
    matplotlib.rcParams["svg.hashsalt"] = "accord"
    figure = Figure(figsize=(10, 5), layout="constrained")
    for i, (axis, points) in enumerate(points_by_axis.items()):
        x = [p["value"] for p in points]
        for row, (key, unit, scale) in enumerate((("seconds", "s", 1.0), ("memory", "GB", 1024))):
            panel = figure.add_subplot(2, 4, 1 + i + 4 * row)
            panel.plot(x, [p[key] / scale for p in points], "o-", color="#0072b2")
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0)
            panel.set_xlabel(axis)
            panel.set_ylabel(f"{'a step' if key == 'seconds' else 'peak memory'}, {unit}")
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(heading, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
