"""Peak memory of PPO beside DPO, both with LoRA, on one model and equally large passes.

Each side is a new process that takes a few steps of `accord train` and reports the most memory that
it used. Prompts and responses have one length, so that 8 pairs (a prompt and two responses) are as
many tokens in a forward pass as 12 episodes (a prompt and one).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker
from workers.workload import Workload, write_workload

from accord.lm.adapters.lora import add_adapters
from accord.lm.load import load_scalar, save_model
from accord.settings.training import LoraSettings

LENGTH = 90  # tokens of a prompt, and of a response
PASSES = 4  # forward passes in a step
PAIRS = 8  # in a pass: 8 · 3 · 90 tokens, as 12 · 2 · 90
# By name: the method that workers/accord_memory.py trains.
SIDES = {
    "LoRA DPO": "dpo",
    "LoRA PPO, one backbone": "ppo",
    "LoRA PPO, a critic of its own": "ppo-separate",
}
BASELINE = "LoRA DPO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SIDES, action="append")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        write_inputs(folder)
        for name in args.only or SIDES:
            figures[name] = measure(name, folder, args)
            print(f"{name}: {figures[name]['peak']:.0f} MB at most", flush=True)
    Console().print(make_table(figures, args))
    write_json(args.json, {"machine": facts, "figures": figures})


def write_inputs(folder: Path) -> None:
    """The model, a reward adapter on it, and rows of random words, all of one length."""
    work = Workload()
    write_workload(work, folder)
    scorer = add_adapters(
        load_scalar(str(folder / "model"), new_head=True, device="cpu"), LoraSettings(), seed=0
    )
    save_model(scorer, folder / "reward", card="")
    rng = random.Random(0)

    def words() -> str:
        return " ".join(f"w{rng.randrange(3, work.vocabulary)}" for _ in range(LENGTH))

    rows = [{"prompt": words() + " ", "chosen": words(), "rejected": words()} for _ in range(96)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    (folder / "prompts.json").write_text(json.dumps([{"prompt": r["prompt"]} for r in rows]))


def measure(name: str, folder: Path, args: Any) -> dict[str, Any]:
    """Megabytes that a worker used before the model was loaded, and at most."""
    arguments = [SIDES[name], str(folder), "--rows", str(PAIRS), "--passes", str(PASSES)]
    arguments += ["--length", str(LENGTH), "--steps", str(args.steps)]
    arguments += ["--precision", args.precision]
    arguments += ["--checkpointing"] if args.checkpointing else []
    worker = Worker(sys.executable, "accord_memory.py", *arguments)
    try:
        return [worker.step() for _ in range(args.steps)][-1]
    finally:
        worker.close()


def make_table(figures: dict[str, Any], args: Any) -> Table:
    tokens = PAIRS * 3 * LENGTH
    table = Table(title=f"{tokens} tokens a pass, {PASSES} passes a step, {args.precision}")
    for column in ("", "peak", f"of {BASELINE}", "without the libraries"):
        table.add_column(column, justify="right" if column else "left")
    base = figures.get(BASELINE)
    for name, f in figures.items():
        ratio = f"{f['peak'] / base['peak']:.2f}" if base else ""
        above = f"{f['peak'] - f['before']:.0f} MB"
        if base:
            above += f" ({(f['peak'] - f['before']) / (base['peak'] - base['before']):.2f})"
        table.add_row(name, f"{f['peak']:.0f} MB", ratio, above)
    return table


if __name__ == "__main__":
    main()
