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
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from detector_flaws import EARLIER, FLAWS, UNSEEN
from detector_results import Outcome, read_outcome, tables
from detector_runs import Part, Plan, Workshop, plan_runs

RUNS: Mapping[Part, Mapping[str, tuple[int, int]]] = {
    "development": {
        **{kind: (0, 4) for kind in FLAWS if kind not in (*EARLIER, *UNSEEN)},
        "filler": (0, 8),
        "curt tone": (0, 9),
        "collapse": (0, 16),
        "length": (0, 12),
        "clean": (0, 24),
    },
    "test": {
        **dict.fromkeys(FLAWS, (0, 30)),
        "collapse": (30, 60),
        "length": (0, 68),
        "repetition": (0, 10),
        "filler": (0, 20),
        "curt tone": (0, 20),
        **dict.fromkeys(UNSEEN, (0, 15)),
        "clean": (0, 134),
    },
}
"""The number of the first run of each kind, and the number after its last.

Clean runs below 120 and lengths below 60 were looked at under earlier limits, and none of them set
a limit of today. Collapses below 30 were the test of an earlier limit of diversity, which found 79%
of them, and are left out. A bonus for length takes effect in six runs of ten, so there are more.
"""


def runs_of(part: Part) -> list[Plan]:
    """The runs of a part, those of all kinds in turn."""
    placed = [
        (position / (stop - first), plan)
        for kind, (first, stop) in RUNS[part].items()
        for position, plan in enumerate(plan_runs(kind, part, stop)[first:])
    ]
    return [plan for _, plan in sorted(placed, key=lambda pair: pair[0])]


def outcomes(folder: Path, plans: Sequence[Plan], jobs: int) -> list[Outcome]:
    """What became of each run, by the truth and by the audits; runs are trained where they are not
    finished, several at a time."""
    for start in sorted({plan.start for plan in plans}):
        Workshop(folder).prepare(start)  # before several processes want the same model
    if jobs == 1:
        return [_outcome(folder, plan) for plan in plans]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_outcome, [folder] * len(plans), plans))


def _outcome(folder: Path, plan: Plan) -> Outcome:
    torch.set_num_threads(1)
    began = time.perf_counter()
    run = Workshop(folder).train(plan)
    seconds = time.perf_counter() - began
    if seconds > 1:
        print(f"{time.strftime('%H:%M:%S')} {plan.name} {plan.method} {seconds:.0f} s", flush=True)
    return read_outcome(run)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--development", action="store_true", help="the runs to set thresholds by")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--finished", action="store_true", help="report finished runs only")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/detectors"))
    options = parser.parse_args()
    part: Part = "development" if options.development else "test"
    plans, folder = runs_of(part), options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    if options.finished:
        plans = [plan for plan in plans if Workshop(folder).is_finished(plan)]
    print(tables(outcomes(folder, plans, options.jobs)))
    print(
        f"\n{len(plans)} {part} runs; {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    main()
