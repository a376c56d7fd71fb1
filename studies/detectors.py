"""How often the audits of a model are right, on runs whose flaws are planted and known.

    python studies/detectors.py --output-dir runs/detectors
    python studies/detectors.py --development --output-dir runs/detectors

Trains small models on the embedded world: good runs by four methods over a range of settings, and
runs whose reward has a planted flaw (finished runs are not trained again). Then asks `accord
audit`'s questions of each run and of its checkpoints, and prints tables in Markdown. A run counts
as flawed only where the world's own rules see the flaw's effect, and as clean only where its true
reward rose and they see no effect of any flaw. Thresholds may be set with the development runs
alone; they start from other supervised models than the runs that are reported, and hold no flaw of
the unseen family. Shares have exact intervals (Clopper and Pearson 1934).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from detector_flaws import FLAWS, UNSEEN
from detector_results import Outcome, read_outcome, tables
from detector_runs import Part, Plan, Workshop, plan_runs

CLEAN, PLANTED = 60, 30
DEVELOPMENT_CLEAN, DEVELOPMENT_PLANTED = 12, 4


def runs_of(part: Part, clean: int, planted: int) -> list[Plan]:
    """The runs of a part, those of all kinds in turn; the unseen family has `planted` in all."""
    seen = [kind for kind in FLAWS if kind not in UNSEEN]
    counts = {"clean": clean, **dict.fromkeys(seen, planted)}
    if part == "test":
        counts |= dict.fromkeys(UNSEEN, -(-planted // len(UNSEEN)))
    plans = [plan for kind, count in counts.items() for plan in plan_runs(kind, part, count)]
    return sorted(plans, key=lambda plan: (plan.number + 0.5) / counts[plan.kind])


def train_all(folder: Path, plans: Sequence[Plan], jobs: int) -> list[Path]:
    """The folders of all runs, trained where they are not finished."""
    if jobs == 1:
        return [_train(folder, plan) for plan in plans]
    for start in sorted({plan.start for plan in plans}):
        Workshop(folder).prepare(start)  # before several processes want the same model
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_train, [folder] * len(plans), plans))


def _train(folder: Path, plan: Plan) -> Path:
    torch.set_num_threads(1)
    began = time.perf_counter()
    run = Workshop(folder).train(plan)
    seconds = time.perf_counter() - began
    if seconds > 1:
        print(f"{time.strftime('%H:%M:%S')} {plan.name} {plan.method} {seconds:.0f} s", flush=True)
    return run


def outcomes(runs: Iterable[Path]) -> list[Outcome]:
    """What became of each run, by the truth and by the audits."""
    return [read_outcome(run) for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--development", action="store_true", help="the runs to set thresholds by")
    parser.add_argument("--clean", type=int, help=f"clean runs ({CLEAN})")
    parser.add_argument("--planted", type=int, help=f"runs of each flaw ({PLANTED})")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--finished", action="store_true", help="report finished runs only")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/detectors"))
    options = parser.parse_args()
    part: Part = "development" if options.development else "test"
    counts = (DEVELOPMENT_CLEAN, DEVELOPMENT_PLANTED) if options.development else (CLEAN, PLANTED)
    plans = runs_of(part, options.clean or counts[0], options.planted or counts[1])
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.finished:
        workshop = Workshop(options.output_dir)
        folders = [workshop.folder / plan.name for plan in plans if workshop.is_finished(plan)]
    else:
        folders = train_all(options.output_dir, plans, options.jobs)
    print(tables(outcomes(folders)))
    print(
        f"\n{len(folders)} {part} runs; {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    main()
