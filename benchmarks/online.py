"""An iteration of accord's GRPO and PPO beside TRL's: seconds, memory, ratio.

Both start from one saved model and take iterations in turns on the same prompts; the ratio is the
median of the turns' ratios. GRPO runs beside TRL 1.16 (`make .venv-trl`, or ACCORD_TRL_PYTHON). PPO
runs beside TRL 1.12, the last to have it, in another environment (`make .venv-trl-ppo`, or
ACCORD_TRL_PPO_PYTHON). TRL's critic is a separate model; accord runs with a separate one, and with
one that shares the policy's backbone (`critic=shared`). Random weights hardly ever end a response,
so all have their full length.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaForSequenceClassification
from workers.lockstep import Worker, WorkerError, alternate, other_python
from workers.workload import WORKLOADS, Workload, write_workload

# By name: TRL's method, and by name accord's methods that take turns with it.
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
    parser.add_argument("--work", choices=WORKLOADS, default="standard")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="where the workload is written, and stays")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "work"
        write_inputs(folder, WORKLOADS[args.work], args.device)
        failed = []
        for name in args.only or COMPARED:
            try:
                for figure in compare(name, folder, args):
                    print(json.dumps(figure), flush=True)
                    figures.append(figure)
            except WorkerError as error:
                print(f"{name} failed: {error}", flush=True)
                failed.append(name)
            write_json(args.json, {"machine": facts, "figures": figures})  # it may be ended
    Console().print(make_table(figures, args))
    sys.exit(f"Failed: {', '.join(failed)}." if failed else None)


def write_inputs(folder: Path, work: Workload, device: str) -> None:
    """The model with its rows, and a reward model of the same size, unless they are there."""
    if not folder.is_dir():
        write_workload(work, folder, device)
    if (folder / "reward" / "tokenizer_config.json").is_file():  # written last
        return
    config = work.config()
    config.num_labels = 1
    torch.manual_seed(1)
    with torch.device(device):
        LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / "reward")


def trl_python(method: str) -> Path | None:
    """The interpreter of the environment with the TRL version that has a method."""
    if method == "grpo":
        return other_python("ACCORD_TRL_PYTHON", ".venv-trl")
    return other_python("ACCORD_TRL_PPO_PYTHON", ".venv-trl-ppo")


def compare(name: str, folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of each of accord's methods beside TRL's."""
    trl_method, accord_methods = COMPARED[name]
    python = trl_python(trl_method)
    count = str(args.warmup + args.steps + 1)
    arguments = ["--episodes", str(args.episodes), "--tokens", str(args.tokens)]
    arguments += ["--steps", count, "--precision", args.precision, "--device", args.device]
    workers = {
        label: Worker(sys.executable, "accord_online.py", method, str(folder), *arguments)
        for label, method in accord_methods.items()
    }
    if python is not None:
        workers["trl"] = Worker(python, "trl_online.py", trl_method, str(folder), *arguments)
    try:
        results = alternate(workers, warmup=args.warmup, steps=args.steps)
    finally:
        for worker in workers.values():
            worker.close()
    for label in accord_methods:
        accord_results = results[label]
        figure = {
            "name": label,
            "threads": workers[label].threads,
            "accord": statistics.median(r["step"] for r in accord_results),
            "accord_memory": max(r["memory"] for r in accord_results),
            "length": statistics.mean(r["length"] for r in accord_results),
        }
        if "trl" in results:
            pairs = list(zip(results["trl"], accord_results, strict=True))
            figure["trl"] = statistics.median(trl["step"] for trl, _ in pairs)
            figure["ratio"] = statistics.median(trl["step"] / ours["step"] for trl, ours in pairs)
            figure["trl_memory"] = max(r["memory"] for r in results["trl"])
        yield figure


def make_table(figures: list[dict[str, Any]], args: argparse.Namespace) -> Table:
    table = Table(
        title=f"{args.episodes} responses of {args.tokens} tokens, {args.precision}, median of "
        f"{args.steps}"
    )
    for column in ("an iteration of", "accord", "TRL", "faster", "memory", "TRL's", "share"):
        table.add_column(column, justify="left" if column == "an iteration of" else "right")
    for f in figures:
        trl_cells = ("–",) * 2 if "trl" not in f else (f"{f['trl']:.2f} s", f"{f['ratio']:.1f}×")
        memory = (
            ("–",) * 2
            if "trl" not in f
            else (
                f"{f['trl_memory'] / 1000:.2f} GB",
                f"{f['accord_memory'] / f['trl_memory']:.2f}",
            )
        )
        table.add_row(
            f["name"],
            f"{f['accord']:.2f} s",
            *trl_cells,
            f"{f['accord_memory'] / 1000:.2f} GB",
            *memory,
        )
    return table


if __name__ == "__main__":
    main()
