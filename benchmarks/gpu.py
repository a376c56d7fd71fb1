"""All of the GPU's checks and timings within a number of seconds, as one JSON and one table.

First whether CUDA computes what the CPU does (`device_check.py`), then a step of DPO, SFT and the
reward model, an iteration of GRPO and PPO, and sampling, beside TRL on the same card in turns
(`training.py`, `online.py`, `sampling.py`), and last a step of accord's DPO with its layers
compiled by torch.compile. Each part has a limit of its own, and one that the time left does not
suffice for is not begun, and named. What a part measured before it failed or was ended is kept.
`--device cpu --tiny` runs all of it on a small model, to try the parts. `benchmarks/gpu.sh`
prepares a bare machine and runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets")
TRAINED = ("DPO, reference online", "SFT", "reward model")


@dataclass(frozen=True)
class Part:
    """A benchmark with its arguments; it is begun with at least `least` seconds left, and ended
    after `most`."""

    name: str
    script: str
    arguments: tuple[str, ...]
    work: str = ""
    least: int = 45
    most: int = 90


def make_parts(args: argparse.Namespace) -> list[Part]:
    """The parts in order: what matters most comes first."""
    steps = ("--steps", "1" if args.tiny else "5", "--warmup", "1" if args.tiny else "2")
    few = ("--steps", "1" if args.tiny else "2", "--warmup", "1")
    small, large = ("tiny", "tiny") if args.tiny else ("0.5B", "1.5B")
    rows = ("--rows", "2" if args.tiny else "16")
    episodes = ("--episodes", "8", "--tokens", "4") if args.tiny else ("--episodes", "64")
    sizes = ("--prompts", "2", "--responses", "2", "--tokens", "4", "--turns", "1")
    if not args.tiny:
        sizes = ("--prompts", "16", "--responses", "8", "--tokens", "128", "--turns", "2")
    trained = [argument for name in TRAINED for argument in ("--only", name)]
    only = ("--only", "llama") if args.tiny else ()
    lora = (*few, *rows, "--lora", "--only", TRAINED[0])
    compiled = (*steps, *rows, "--compile", "--without-trl", "--only", TRAINED[0])
    return [
        Part("CUDA against the CPU", "device_check.py", only, most=120),
        Part("training, 0.5B", "training.py", (*steps, *rows, *trained), small, 90, 150),
        Part("GRPO", "online.py", (*few, *episodes, "--only", "GRPO"), small, 60),
        Part("sampling", "sampling.py", sizes, small),
        Part("LoRA DPO, 1.5B", "training.py", lora, large, 60),
        Part("PPO", "online.py", (*few, *episodes, "--only", "PPO"), small, 60),
        Part("DPO compiled, 0.5B", "training.py", compiled, small),
        Part("full DPO, 1.5B", "training.py", (*few, *rows, "--only", TRAINED[0]), large, 60),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, to try this")
    parser.add_argument("--seconds", type=float, default=450.0, help="in all")
    parser.add_argument("--only", action="append", help="parts whose name contains this text")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    facts, end = print_machine(), time.monotonic() + args.seconds
    facts |= {"device": device_name(args.device), "packages": {p: version(p) for p in PACKAGES}}
    print(f"device: {facts['device']}, {facts['packages']}", flush=True)
    results: dict[str, Any] = {"machine": facts, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for part in make_parts(args):
            if not args.only or any(text in part.name for text in args.only):
                result = run_part(part, Path(folder), args.device, end - time.monotonic())
                results["parts"][part.name] = result
                write_json(args.json, results)  # a machine may be taken away at any time
    Console(width=120).print(make_table(results["parts"]))
    failed = [name for name, part in results["parts"].items() if part["failed"]]
    if failed:
        sys.exit(f"Failed, ended or left out: {', '.join(failed)}. Their output is in {args.json}.")


def device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device. `--device cpu --tiny` tries the parts without one.")
    return torch.cuda.get_device_name()


def run_part(part: Part, folder: Path, device: str, left: float) -> dict[str, Any]:
    """A part's figures and output; `failed` where it was ended, raised, or was left out."""
    if left < part.least:
        print(f"{part.name}: left out, {left:.0f} s are left", flush=True)
        return {"failed": True, "output": f"left out: {left:.0f} s were left"}
    figures_path, log_path = folder / "figures.json", folder / "log"
    figures_path.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / part.script), *part.arguments, "--device", device]
    if part.work:
        command += ["--folder", str(folder / part.work), "--work", part.work]
    print(f"{part.name}: {' '.join(command[1:])}", flush=True)
    # A CPU, where nothing is timed for its own sake, may take what is left.
    start, limit = time.monotonic(), min(left, part.most) if device == "cuda" else left
    code = run_within([*command, "--json", str(figures_path)], log_path, limit)
    seconds = time.monotonic() - start
    text = log_path.read_text(errors="replace")
    if code is None:
        text += f"\nended after {seconds:.0f} s"
    print(f"{text[-4000:]}\n{part.name}: {seconds:.0f} s", flush=True)
    try:
        figures = json.loads(figures_path.read_text())
    except (OSError, ValueError):  # ended before it had any, or while it wrote them
        figures = {}
    return {**figures, "seconds": seconds, "failed": code != 0, "output": text[-8000:]}


def run_within(command: Sequence[str], log: Path, limit: float) -> int | None:
    """Run a command with its output in a file; its exit code, or None where it was ended after
    `limit` seconds, with all processes that it started: they hold the device's memory."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def make_table(parts: dict[str, Any]) -> Table:
    """A row for each figure: seconds of a step, tokens a second, memory, the share of the peak."""
    table = Table(title="accord beside TRL on one device")
    columns = ("part", "of", "accord", "TRL", "faster", "tokens/s", "memory", "TRL's", "MFU")
    for column in columns:
        table.add_column(column, justify="left" if column in ("part", "of") else "right")
    for name, part in parts.items():
        for figure in part.get("figures", ()):
            table.add_row(name, figure["name"], *cells(figure))
        checks: Sequence[dict[str, Any]] = part.get("checks", ())
        if checks:
            wrong = sum(check["failed"] for check in checks)
            table.add_row(name, f"{len(checks)} checks, {wrong} wrong")
        if part["failed"]:
            table.add_row(name, part["output"].strip().splitlines()[-1][:60])
    return table


def cells(figure: dict[str, Any]) -> list[str]:
    if "seconds" in figure:  # of sampling, whose ratio is accord's to it
        rate = f"{figure['seconds']['tokens']:,.0f}"
        return ["", "", f"{figure['seconds']['ratio']:.1f}×", rate, "", "", ""]
    has_trl = "trl" in figure
    return [
        f"{figure['accord']:.3f} s",
        f"{figure['trl']:.3f} s" if has_trl else "",
        f"{figure['ratio']:.1f}×" if has_trl else "",
        f"{figure['tokens_a_second']:,.0f}" if "tokens_a_second" in figure else "",
        f"{figure['accord_memory'] / 1024:.2f} GB",
        f"{figure['trl_memory'] / 1024:.2f} GB" if has_trl else "",
        f"{figure['share']:.0%}" if "share" in figure else "",
    ]


if __name__ == "__main__":
    main()
