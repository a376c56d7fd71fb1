"""An iteration of accord's GRPO and PPO beside TRL's: seconds, memory, ratio.

Both start from one saved model and take iterations in turns on the same prompts; the ratio is the
median of the turns' ratios. GRPO runs beside TRL 1.16 (`make .venv-trl`, or ACCORD_TRL_PYTHON). PPO
runs beside TRL 1.12, the last to have it, in an environment of its own (`make .venv-trl-ppo`, or
ACCORD_TRL_PPO_PYTHON), whose critic is a model of its own; accord's is too, and once a head on the
policy's backbone (`critic=shared`). Random weights hardly ever end a response, so all have their
full length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaForSequenceClassification
from workers.lockstep import ROOT, Worker, alternate, trl_python
from workers.workload import Work, write

import accord
from accord.runs import machine

# By name: TRL's method, and accord's ways of doing it, which take their turns beside it.
COMPARED = {
    "GRPO": ("grpo", {"GRPO": "grpo"}),
    "PPO": ("ppo", {"PPO": "ppo", "PPO, one backbone": "ppo-shared"}),
    "PPO, LoRA": ("ppo-lora", {"PPO, LoRA": "ppo-lora"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=COMPARED, action="append")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    seen = machine()
    print(f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seen['cpu']}, {seen['cores']} cores, {seen['system']}")
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        lay_out(folder)
        for name in given.only or COMPARED:
            for figure in compare(name, folder, given):
                print(json.dumps(figure), flush=True)
                figures.append(figure)
    Console().print(table(figures, given))
    if given.json:
        given.json.write_text(json.dumps({"machine": seen, "figures": figures}, indent=1))


def lay_out(folder: Path) -> None:
    """The model with its rows, and a reward model of the same size."""
    work = Work()
    write(work, folder)
    config = work.config()
    config.num_labels = 1
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / "reward")


def python_of(method: str) -> Path | None:
    """The interpreter of the environment that has TRL's version of a method."""
    if method == "grpo":
        return trl_python()
    given = os.environ.get("ACCORD_TRL_PPO_PYTHON")
    place = Path(given) if given else ROOT / ".venv-trl-ppo" / "bin" / "python"
    return place if place.is_file() else None


def compare(name: str, folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of each of accord's ways."""
    method, ways = COMPARED[name]
    python = python_of(method)
    count = str(given.warmup + given.steps + 1)
    arguments = ["--episodes", str(given.episodes), "--tokens", str(given.tokens)]
    arguments += ["--steps", count, "--precision", given.precision]
    workers = {
        way: Worker(sys.executable, "accord_online.py", own, str(folder), *arguments)
        for way, own in ways.items()
    }
    if python is not None:
        workers["trl"] = Worker(python, "trl_online.py", method, str(folder), *arguments)
    try:
        found = alternate(workers, warmup=given.warmup, steps=given.steps)
    finally:
        for worker in workers.values():
            worker.close()
    threads = {worker.about["threads"] for worker in workers.values()}
    assert len(threads) == 1, f"unequal threads: {threads}"
    for way in ways:
        own = found[way]
        figure = {
            "name": way,
            "threads": max(threads),
            "accord": statistics.median(r["step"] for r in own),
            "accord_memory": max(r["memory"] for r in own),
            "length": statistics.mean(r["length"] for r in own),
        }
        if "trl" in found:
            pairs = list(zip(found["trl"], own, strict=True))
            figure["trl"] = statistics.median(theirs["step"] for theirs, _ in pairs)
            figure["ratio"] = statistics.median(t["step"] / o["step"] for t, o in pairs)
            figure["trl_memory"] = max(r["memory"] for r in found["trl"])
        yield figure


def table(figures: list[dict[str, Any]], given: argparse.Namespace) -> Table:
    shown = Table(
        title=f"{given.episodes} responses of {given.tokens} tokens, {given.precision}, median of "
        f"{given.steps}"
    )
    for column in ("an iteration of", "accord", "TRL", "faster", "memory", "TRL's", "share"):
        shown.add_column(column, justify="left" if column == "an iteration of" else "right")
    for f in figures:
        theirs = ("–",) * 2 if "trl" not in f else (f"{f['trl']:.2f} s", f"{f['ratio']:.1f}×")
        memory = (
            ("–",) * 2
            if "trl" not in f
            else (
                f"{f['trl_memory'] / 1000:.2f} GB",
                f"{f['accord_memory'] / f['trl_memory']:.2f}",
            )
        )
        shown.add_row(
            f["name"],
            f"{f['accord']:.2f} s",
            *theirs,
            f"{f['accord_memory'] / 1000:.2f} GB",
            *memory,
        )
    return shown


if __name__ == "__main__":
    main()
