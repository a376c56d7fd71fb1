"""A training step of accord beside one of TRL: seconds, memory, and the share of the peak.

Both start from one saved model and take steps in turns on the same rows; the ratio is the median of
the steps' ratios, of one machine in one hour. TRL runs in a separate environment (`make .venv-trl`,
or ACCORD_TRL_PYTHON) with its best settings for a CPU: bf16, no gradient checkpointing, its
reference precomputed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker, WorkerError, alternate, other_python
from workers.protocol import wait_for_device
from workers.workload import (
    WORKLOADS,
    RealWorkload,
    Workload,
    layer_parameters,
    write_real_workload,
    write_workload,
)

# TRL's method, accord's, and whether accord's time includes the reference's forward pass.
COMPARED = {
    "DPO, reference online": ("dpo", "dpo", True),
    "DPO, reference precomputed": ("dpo-precomputed", "dpo", False),
    "reward model": ("reward", "reward", False),
    "SFT": ("sft", "sft", False),
    "KTO": ("kto", "kto", True),
    "ORPO": ("orpo", "orpo", False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=WORKLOADS, default="standard")
    parser.add_argument("--only", choices=COMPARED, action="append")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="rows (or pairs) a step")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--model", type=Path, help="time this saved chat model instead")
    parser.add_argument("--dataset", type=Path, help="with --model: HH-RLHF's dialogues as text")
    parser.add_argument("--lora", action="store_true", help="train adapters of rank 16")
    parser.add_argument("--compile", action="store_true", help="accord's layers, by torch.compile")
    parser.add_argument("--without-trl", action="store_true", help="time accord alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="where the workload is written, and stays")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    python = None if args.without_trl else other_python("ACCORD_TRL_PYTHON", ".venv-trl")
    if python is None and not args.without_trl:
        print("TRL is not here: `make .venv-trl`, or set ACCORD_TRL_PYTHON. Timing accord alone.")
    facts = print_machine()
    peak = matmul_peak(args.precision, args.device)
    print(f"matrix products of {args.precision}: {peak / 1e9:.0f} GFLOP/s at best")
    work: Workload | RealWorkload = WORKLOADS[args.work]
    if args.model is not None:
        args.work = args.model.name
        work = RealWorkload(args.model, args.dataset)
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "work"
        if folder.is_dir():
            pass  # of an earlier run
        elif isinstance(work, RealWorkload):
            write_real_workload(work, folder)
        else:
            write_workload(work, folder, args.device)
        setup = {"work": args.work, "machine": facts, "peak": peak, "rows": args.rows}
        setup |= {"lora": args.lora, "precision": args.precision}
        failed = []
        for name in args.only or COMPARED:
            try:
                figures.append(compare(name, work, folder, python, args, peak))
            except WorkerError as error:
                print(f"{name} failed: {error}", flush=True)
                failed.append(name)
                continue
            print(summary_line(figures[-1]), flush=True)
            write_json(args.json, {**setup, "figures": figures})  # at once: it may be ended
    Console().print(make_table(figures, args))
    sys.exit(f"Failed: {', '.join(failed)}." if failed else None)


def compare(
    name: str,
    work: Workload | RealWorkload,
    folder: Path,
    python: Path | None,
    args: Any,
    peak: float,
) -> dict[str, Any]:
    trl_method, accord_method, with_reference = COMPARED[name]
    count = args.warmup + args.steps
    arguments = (str(folder), "--rows", str(args.rows), "--steps", str(count + 1))
    arguments = (*arguments, "--precision", args.precision, "--device", args.device)
    arguments = (*arguments, *(["--lora"] if args.lora else []))
    compiled = ["--compile"] if args.compile else []
    command = ("accord_steps.py", accord_method, *arguments, *compiled)
    workers = {"accord": Worker(sys.executable, *command)}
    if python is not None:
        workers["trl"] = Worker(python, "trl_steps.py", trl_method, *arguments)
    try:
        results = alternate(workers, warmup=args.warmup, steps=args.steps)
    finally:
        for worker in workers.values():
            worker.close()
    accord_results = results["accord"]
    seconds = [r["step"] + with_reference * r["reference"] for r in accord_results]
    flops = [
        step_flops(work.config(), accord_method, r, with_reference, args.lora)
        for r in accord_results
    ]
    figure = {
        "name": name,
        "steps": args.steps,
        "accord": statistics.median(seconds),
        "accord_memory": max(r["memory"] for r in accord_results),
        "tokens_a_second": statistics.median(
            r["tokens"] / s for r, s in zip(accord_results, seconds, strict=True)
        ),
        "share": statistics.median(f / s for f, s in zip(flops, seconds, strict=True)) / peak,
        "threads": workers["accord"].threads,
    }
    if "trl" in results:
        figure["trl"] = statistics.median(r["step"] for r in results["trl"])
        pairs = zip(results["trl"], seconds, strict=True)
        figure["ratio"] = statistics.median(r["step"] / s for r, s in pairs)
        figure["trl_memory"] = max(r["memory"] for r in results["trl"])
    return figure


def step_flops(
    config: Any, method: str, result: dict[str, Any], with_reference: bool, lora: bool
) -> float:
    """The floating-point operations that a step needs at least: matrix products, forward and twice
    that backward; once that with LoRA, whose base has no gradients.

    Counted are each prompt once for all its responses, and the head on response tokens only;
    neither attention's products nor recomputation. KTO's mismatched responses are read once more
    by each model.
    """
    layers = config.num_hidden_layers * layer_parameters(config)
    forward = 2.0 * result["tokens"] * layers
    if method != "reward":
        forward += 2.0 * result["response_tokens"] * config.hidden_size * config.vocab_size
    passes = 3 - lora + with_reference + 2 * (method == "kto")
    return forward * passes


def matmul_peak(precision: str, device: str = "cpu") -> float:
    """FLOP/s of the fastest of a few matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    shapes = [(2048, 2048, 2048), (2048, 512, 2048), (2048, 512, 512), (4096, 1024, 4096)]
    for n, k, m in [*shapes, *([(8192, 8192, 8192)] if device == "cuda" else [])]:
        a, b = (torch.randn(*size, device=device).to(dtype) for size in ((n, k), (k, m)))
        for _ in range(20):
            start_time = time.perf_counter()
            a @ b
            wait_for_device()
            best = max(best, 2 * n * k * m / (time.perf_counter() - start_time))
    return best


def summary_line(figure: dict[str, Any]) -> str:
    line = f"{figure['name']}: accord {figure['accord']:.2f} s"
    if "trl" in figure:
        line += f", TRL {figure['trl']:.2f} s, {figure['ratio']:.1f} times faster"
    return line


def make_table(figures: Sequence[dict[str, Any]], args: Any) -> Table:
    kind = f"LoRA, {args.precision}" if args.lora else args.precision
    title = f"{args.work}: {args.rows} rows a step, {kind}, median of {args.steps}"
    table = Table(title=title)
    for column in ("a step of", "accord", "TRL", "faster", "memory", "TRL's", "share", "of peak"):
        table.add_column(column, justify="left" if column == "a step of" else "right")
    for f in figures:
        has_trl = "trl" in f
        table.add_row(
            f["name"],
            f"{f['accord']:.2f} s",
            f"{f['trl']:.2f} s" if has_trl else "",
            f"{f['ratio']:.1f}×" if has_trl else "",
            f"{f['accord_memory'] / 1024:.2f} GB",
            f"{f['trl_memory'] / 1024:.2f} GB" if has_trl else "",
            f"{f['accord_memory'] / f['trl_memory']:.2f}" if has_trl else "",
            f"{100 * f['share']:.0f}%",
        )
    return table


if __name__ == "__main__":
    main()
