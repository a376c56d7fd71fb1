"""What every study does: run a recipe over several seeds, and print means with intervals."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.measure.statistics import Interval

CEILING = "true best-of-64"
"""The model of results.json that is SFT's best response of 64 by the true reward."""


@dataclass(frozen=True)
class Seeds:
    """The finished runs of a recipe, one per seed, and the seconds of each run's stages."""

    folder: Path
    runs: tuple[Path, ...]
    seconds: tuple[float, ...]
    jobs: int

    def summary_line(self) -> str:
        """How many seeds, how long they took, on which machine, when."""
        return (
            f"{len(self.runs)} seeds, {min(self.seconds):.0f} to {max(self.seconds):.0f} s each "
            f"with {self.jobs} at a time; {platform.machine()}, {os.cpu_count()} CPUs, "
            f"{time.strftime('%Y-%m-%d')}."
        )


def run_seeds(recipe: str, description: str | None, output_dir: str) -> Seeds:
    """Run `recipe` once per seed that the command line requests; finished runs are not repeated.

    With `--jobs 2`, two seeds run at a time and share the threads. `key=value` arguments are
    passed to the recipe.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output-dir", type=Path, default=Path(output_dir))
    parser.add_argument("overrides", nargs="*", metavar="NAME.key=value")
    options = parser.parse_args()
    folder: Path = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    runs = tuple(folder / f"seed-{seed}" for seed in range(options.seeds))

    def run(seed: int) -> float:
        return _run_seed(recipe, seed, runs[seed], options.jobs, options.overrides)

    with ThreadPoolExecutor(options.jobs) as pool:
        seconds = tuple(pool.map(run, range(options.seeds)))
    return Seeds(folder, runs, seconds, options.jobs)


def _run_seed(recipe: str, seed: int, run: Path, jobs: int, overrides: list[str]) -> float:
    """Run the recipe with a seed; returns the seconds of its stages."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    settings = [f"seed={seed}", f"output_dir={run}", *overrides]
    with run.with_suffix(".log").open("w") as out:
        subprocess.run(
            [sys.executable, "-m", "accord", "run", recipe, *settings],
            check=True,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": threads, **os.environ},
        )
    stages = [
        run / "stage.json",
        *run.glob("*/stage.json"),
    ]  # "iterate" includes its rounds
    return sum(float(_read_json(stage)["seconds"]) for stage in stages if stage.is_file())


def read_results(run: Path) -> dict[str, Any]:
    """A run's results.json."""
    return _read_json(run / "results.json")


def read_model_rows(run: Path) -> dict[str, dict[str, Any]]:
    """By name the models of a run's results.json."""
    return {row["model"]: row for row in read_results(run)["models"]}


def covered_share(rows: Mapping[str, Mapping[str, Any]], model: str) -> float:
    """The share of the distance in true reward from SFT to CEILING that a model covers."""
    start, ceiling = rows["sft"]["true_reward"], rows[CEILING]["true_reward"]
    return float((rows[model]["true_reward"] - start) / (ceiling - start))


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def format_interval(interval: Interval, digits: int = 3) -> str:
    """A mean ± half the width of its interval, which is symmetric."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {interval.high - interval.mean:.{digits}f}"
