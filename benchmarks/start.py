"""Seconds until the first step of DPO on files of many pairs, at a first and at a second start.

    python benchmarks/start.py --model FOLDER --dataset pairs.jsonl --pairs 20000 200000

The rows of the data set are repeated, each with a number of its own in its prompt. Both train LoRA
adapters for one step of 8 pairs, from caches that are empty at the first start. accord runs twice:
for a share of an epoch, which tokenises all rows as TRL does, and for `max_steps=1`, which does not
need them all. TRL runs where `.venv-trl` has it (`make .venv-trl`). Memory is the largest resident
set of the process and of the processes that it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table

from accord.data.read import read_records
from accord.records import Comparison

TRL = Path(__file__).resolve().parent.parent / ".venv-trl/bin/python"
ACCORD, FEW_STEPS = "accord", "accord, max_steps=1"
WORKER = Path(__file__).resolve().parent / "workers/trl_start.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, help="pairs that accord reads")
    parser.add_argument("--pairs", type=int, nargs="+", default=[20_000])
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    sides = [ACCORD, FEW_STEPS] + ["TRL"] * (TRL.is_file() and not args.without_trl)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in args.pairs:
            rows = Path(folder) / "pairs.jsonl"
            write_pairs(args.dataset, count, rows)
            for side in sides:
                for start in ("first", "second"):
                    cache = Path(folder) / f"{sides.index(side)}-{count}"
                    figure = measure(side, args.model, rows, count, cache, start, args.max_length)
                    figures.append({"side": side, "pairs": count, "start": start, **figure})
                    print(figures[-1], flush=True)
            rows.unlink()
    Console().print(make_table(figures))
    write_json(args.json, {"machine": facts, "figures": figures})


def write_pairs(dataset: str, count: int, path: Path) -> None:
    pairs = [r for r in read_records(dataset, "preferences")[0] if isinstance(r, Comparison)]
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            pair = pairs[i % len(pairs)]
            prompt = [{"role": "user", "content": f"{i}. {text_of(pair)}"}]
            answers = {"chosen": pair.chosen, "rejected": pair.rejected}
            row = {"prompt": prompt, **{k: _answer(v) for k, v in answers.items()}}
            file.write(json.dumps(row) + "\n")


def text_of(pair: Comparison) -> str:
    return pair.prompt if isinstance(pair.prompt, str) else pair.prompt[-1].content


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def measure(
    side: str, model: str, rows: Path, count: int, cache: Path, name: str, max_length: int
) -> dict[str, float]:
    """Seconds and the largest memory, in MiB, of a run of one step, into a folder `name`."""
    cache.mkdir(exist_ok=True)
    run = str(cache / name)
    environment = {**os.environ, "ACCORD_CACHE": str(cache), "HF_HOME": str(cache)}
    if side in (ACCORD, FEW_STEPS):
        steps = "max_steps=1" if side == FEW_STEPS else f"num_train_epochs={8 / count:.9f}"
        command = [sys.executable, "-m", "accord", "train", "dpo", f"model={model}"]
        command += [f"dataset={rows}", f"output_dir={run}", steps, "lora={r: 16}"]
        command += ["per_device_train_batch_size=8", f"max_length={max_length}"]
    else:
        command = [str(TRL), str(WORKER), model, str(rows), run, str(max_length)]
    log = cache / f"{name}.log"  # a pipe that nobody reads would stop who writes progress bars
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        peak = _watch(process)
    if process.returncode:
        raise SystemExit(log.read_text(errors="replace")[-3000:])
    return {"seconds": time.perf_counter() - start, "memory": peak}


def _watch(process: subprocess.Popen[str]) -> float:
    """The largest sum of the proportional sets of the process and its children, in MiB."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))
        time.sleep(0.25)
    return peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield from _family(child)


def _memory(pid: int) -> float:
    """A page that several processes share counts for each in equal parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def make_table(figures: Sequence[dict[str, Any]]) -> Table:
    table = Table("pairs", "side", "start", "seconds", "memory, MiB")
    for figure in figures:
        table.add_row(
            f"{figure['pairs']:,}",
            figure["side"],
            figure["start"],
            f"{figure['seconds']:.1f}",
            f"{figure['memory']:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
