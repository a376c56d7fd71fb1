"""Peak memory of PPO beside DPO, both with LoRA, on one model and passes of as many tokens.

Each side is a process of its own that takes a few steps of `accord train` and tells the most memory
it used. Prompts and responses have one length, so that 8 pairs (a prompt and two responses) are as
many tokens in a forward pass as 12 episodes (a prompt and one).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker
from workers.workload import Work, write

import accord
from accord.lm.adapters.lora import add_adapters
from accord.lm.load import load_scalar, save_model
from accord.runs import machine
from accord.settings.training import LoraSettings

LENGTH = 90  # tokens of a prompt, and of a response
PASSES = 4  # forward passes in a step
PAIRS = 8  # in a pass: 8 · 3 · 90 tokens, as 12 · 2 · 90
# What is run: the worker script, and what it is told to train.
SIDES: dict[str, tuple[str, str]] = {
    "LoRA DPO": ("accord_memory.py", "dpo"),
    "LoRA PPO, one backbone": ("accord_memory.py", "ppo"),
    "LoRA PPO, a critic of its own": ("accord_memory.py", "ppo-separate"),
}
AGAINST = "LoRA DPO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SIDES, action="append")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    seen = machine()
    print(f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seen['cpu']}, {seen['cores']} cores, {seen['system']}")
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        lay_out(folder)
        for name in given.only or SIDES:
            figures[name] = measured(name, folder, given)
            print(f"{name}: {figures[name]['peak']:.0f} MB at most", flush=True)
    Console().print(table(figures, given))
    if given.json:
        given.json.write_text(json.dumps({"machine": seen, "figures": figures}, indent=1))


def lay_out(folder: Path) -> None:
    """The model, a reward adapter on it, and rows of random words, all of one length."""
    work = Work()
    write(work, folder)
    scorer = add_adapters(load_scalar(str(folder / "model"), device="cpu"), LoraSettings(), seed=0)
    save_model(scorer, folder / "reward", card="")
    draw = random.Random(0)

    def words() -> str:
        return " ".join(f"w{draw.randrange(3, work.vocabulary)}" for _ in range(LENGTH))

    rows = [{"prompt": words() + " ", "chosen": words(), "rejected": words()} for _ in range(96)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    (folder / "prompts.json").write_text(json.dumps([{"prompt": r["prompt"]} for r in rows]))


def measured(name: str, folder: Path, given: Any) -> dict[str, Any]:
    """The last of a worker's answers: megabytes before the model was loaded, and at most."""
    script, method = SIDES[name]
    arguments = [method, str(folder), "--rows", str(PAIRS), "--steps", str(given.steps)]
    arguments += ["--precision", given.precision]
    arguments += ["--checkpointing"] if given.checkpointing else []
    worker = Worker(sys.executable, script, *arguments)
    try:
        return [worker.step() for _ in range(given.steps)][-1]
    finally:
        worker.close()


def table(figures: dict[str, Any], given: Any) -> Table:
    tokens = PAIRS * 3 * LENGTH
    out = Table(title=f"{tokens} tokens a pass, {PASSES} passes a step, {given.precision}")
    for column in ("", "peak", f"of {AGAINST}", "without the libraries"):
        out.add_column(column, justify="right" if column else "left")
    base = figures.get(AGAINST)
    for name, f in figures.items():
        ratio = f"{f['peak'] / base['peak']:.2f}" if base else ""
        own = f"{f['peak'] - f['before']:.0f} MB"
        if base:
            own += f" ({(f['peak'] - f['before']) / (base['peak'] - base['before']):.2f})"
        out.add_row(name, f"{f['peak']:.0f} MB", ratio, own)
    return out


if __name__ == "__main__":
    main()
