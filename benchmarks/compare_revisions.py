"""Training steps of two revisions of accord in turns: medians, and the ratio pair by pair.

    python benchmarks/compare_revisions.py --before REV --after REV

Both revisions are checked out with `git worktree` into a temporary folder, and each runs its own
worker (benchmarks/workers/) with this interpreter and its own sources, on its own copy of the same
model and rows. They take turns, and which of them is first changes each turn, so both see the same
machine. A ratio is of the two steps of one turn; above 1 the later revision is slower. Seconds of
DPO and KTO include the reference's forward pass.

Uncommitted changes are not measured. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.lockstep import ROOT, Worker, alternate
from workers.workload import Workload, write_workload

SIDES = ("before", "after")


@dataclass(frozen=True)
class Method:
    """The worker that runs a method, the method's name there, and the worker's size options."""

    script: str
    name: str
    options: tuple[str, ...]


METHODS = {
    "DPO": Method("accord_steps.py", "dpo", ("rows",)),
    "KTO": Method("accord_steps.py", "kto", ("rows",)),
    "GRPO": Method("accord_online.py", "grpo", ("episodes", "tokens")),
}


@dataclass(frozen=True)
class Checkout:
    """A revision's sources, in a folder that exists while the benchmark runs."""

    commit: str
    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python import this checkout's accord, with a cache that no other run fills."""
        cache = self.path.with_name(f"{self.path.name}-cache")
        return {"PYTHONPATH": str(self.path / "src"), "ACCORD_CACHE": str(cache)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--before", required=True, metavar="REV")
    parser.add_argument("--after", required=True, metavar="REV")
    parser.add_argument("--only", choices=METHODS, action="append")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rows", type=int, default=8, help="rows per step of DPO and KTO")
    parser.add_argument("--episodes", type=int, default=32, help="per iteration of GRPO")
    parser.add_argument("--tokens", type=int, default=96, help="per response of GRPO")
    parser.add_argument("--hidden", type=int, default=Workload.hidden)
    parser.add_argument("--layers", type=int, default=Workload.layers)
    parser.add_argument("--vocabulary", type=int, default=Workload.vocabulary)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worktrees are removed
    facts = print_machine()
    results = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        checkouts = {
            side: stack.enter_context(check_out(getattr(args, side), Path(temporary) / side))
            for side in SIDES
        }
        print(", ".join(f"{side}: {checkout.commit}" for side, checkout in checkouts.items()))
        inputs = Path(temporary) / "inputs"
        work = Workload(vocabulary=args.vocabulary, hidden=args.hidden, layers=args.layers)
        write_workload(work, inputs)
        for name in args.only or METHODS:
            results[name] = run_in_turns(METHODS[name], checkouts, inputs, args)
            Console().print(make_table(name, results[name], checkouts))
    commits = {side: checkout.commit for side, checkout in checkouts.items()}
    figures = {name: compute_figures(sides) for name, sides in results.items()}
    write_json(args.json, {"machine": facts, "commits": commits, "figures": figures})


@contextmanager
def check_out(revision: str, path: Path) -> Iterator[Checkout]:
    """A worktree of a revision at `path`, until the end of the block."""
    git = ("git", "-C", str(ROOT))
    added = subprocess.run(
        [*git, "worktree", "add", "--detach", str(path), revision], capture_output=True, text=True
    )
    if added.returncode:
        sys.exit(f"{revision} can't be checked out: {added.stderr.strip()}")
    try:
        commit = subprocess.run(
            ["git", "-C", str(path), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        checkout = Checkout(commit, path)
        check_import(checkout)
        yield checkout
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(path)], check=True)


def check_import(checkout: Checkout) -> None:
    """End the benchmark where this interpreter would import another accord than the checkout's."""
    imported = subprocess.run(
        [sys.executable, "-c", "import accord; print(accord.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **checkout.environment},
    ).stdout.strip()
    if checkout.path.resolve() not in Path(imported).resolve().parents:
        sys.exit(f"{sys.executable} imports {imported}, not the accord in {checkout.path}")


def run_in_turns(
    method: Method, checkouts: Mapping[str, Checkout], inputs: Path, args: argparse.Namespace
) -> dict[str, Sequence[dict[str, Any]]]:
    """Each side's measurements of the same steps."""
    steps = args.warmup + args.steps + 1
    options = ["--steps", str(steps), "--precision", args.precision]
    for option in method.options:
        options += [f"--{option}", str(getattr(args, option))]
    with ExitStack() as stack:
        workers = {}
        for side, checkout in checkouts.items():
            # Its own copy: workers write prompts and runs into the folder.
            folder = checkout.path.with_name(f"{side}-{method.name}")
            shutil.copytree(inputs, folder)
            script = checkout.path / "benchmarks" / "workers" / method.script
            worker = Worker(
                sys.executable,
                script,
                method.name,
                str(folder),
                *options,
                environment=checkout.environment,
            )
            workers[side] = stack.enter_context(closing(worker))
        return alternate(workers, warmup=args.warmup, steps=args.steps)


def step_seconds(result: Mapping[str, Any]) -> float:
    """A step's seconds, with those of the reference where a worker times it separately."""
    return float(result["step"] + result.get("reference", 0.0))


def compute_figures(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Seconds and ratios of each pair, their medians, and peak memory in MiB."""
    seconds = {side: [step_seconds(r) for r in results[side]] for side in SIDES}
    ratios = [a / b for b, a in zip(seconds["before"], seconds["after"], strict=True)]
    return {
        "seconds": seconds,
        "ratios": ratios,
        "median_seconds": {side: statistics.median(seconds[side]) for side in SIDES},
        "median_ratio": statistics.median(ratios),
        "memory": {side: max(r["memory"] for r in results[side]) for side in SIDES},
    }


def make_table(
    name: str,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    checkouts: Mapping[str, Checkout],
) -> Table:
    figures = compute_figures(results)
    table = Table(title=f"a step of {name}")
    table.add_column("pair")
    for side in SIDES:
        table.add_column(f"{side} ({checkouts[side].commit})", justify="right")
    table.add_column("after / before", justify="right")
    pairs = zip(*(figures["seconds"][side] for side in SIDES), figures["ratios"], strict=True)
    for number, (before, after, ratio) in enumerate(pairs, start=1):
        table.add_row(str(number), f"{before:.3f} s", f"{after:.3f} s", f"{ratio:.3f}")
    table.add_section()
    medians = [f"{figures['median_seconds'][side]:.3f} s" for side in SIDES]
    table.add_row("median", *medians, f"{figures['median_ratio']:.3f}")
    table.add_row("range", "", "", f"{min(figures['ratios']):.3f}–{max(figures['ratios']):.3f}")
    memory = figures["memory"]
    cells = [f"{memory[side] / 1024:.2f} GB" for side in SIDES]
    table.add_row("peak memory", *cells, f"{memory['after'] / memory['before']:.3f}")
    return table


if __name__ == "__main__":
    main()
