"""A training step of accord beside one of TRL: seconds, memory, and the share of the peak.

Both start from one saved model and take steps in turns on the same rows; the ratio is the median of
the steps' ratios, of one machine in one hour. TRL runs in an environment of its own
(`make .venv-trl`, or ACCORD_TRL_PYTHON) with its best settings for a CPU: bf16, no gradient
checkpointing, its reference precomputed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker, alternate, trl_python
from workers.workload import Work, write

import accord
from accord.runs import machine

WORKS = {
    "standard": Work(),
    "vocabulary": Work(vocabulary=150_000),
    "long-prompts": Work(prompt=900, response=90, longest=1600),
}
# TRL's worker, ours, and whether ours counts the reference's forward pass.
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
    parser.add_argument("--work", choices=WORKS, default="standard")
    parser.add_argument("--only", choices=COMPARED, action="append")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="rows (or pairs) a step")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    python = trl_python()
    if python is None:
        print("TRL is not here: `make .venv-trl`, or set ACCORD_TRL_PYTHON. Timing accord alone.")
    seen = machine()
    peak = matmul_peak(given.precision)
    print(f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seen['cpu']}, {seen['cores']} cores, {seen['system']}")
    print(f"matrix products of {given.precision}: {peak / 1e9:.0f} GFLOP/s at best")
    work = WORKS[given.work]
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        write(work, folder)
        for name in given.only or COMPARED:
            figures.append(compare(name, work, folder, python, given, peak))
            print(told(figures[-1]), flush=True)
    Console().print(table(figures, given))
    if given.json:
        about = {"work": given.work, "machine": seen, "peak": peak, "rows": given.rows}
        given.json.write_text(json.dumps({**about, "figures": figures}, indent=1))


def compare(
    name: str, work: Work, folder: Path, python: Path | None, given: Any, peak: float
) -> dict[str, Any]:
    theirs, ours, with_reference = COMPARED[name]
    count = given.warmup + given.steps
    arguments = (str(folder), "--rows", str(given.rows), "--steps", str(count + 1))
    arguments = (*arguments, "--precision", given.precision)
    workers = {"accord": Worker(sys.executable, "accord_steps.py", ours, *arguments)}
    if python is not None:
        workers["trl"] = Worker(python, "trl_steps.py", theirs, *arguments)
    try:
        found = alternate(workers, warmup=given.warmup, steps=given.steps)
    finally:
        for worker in workers.values():
            worker.close()
    threads = {name: worker.about["threads"] for name, worker in workers.items()}
    assert len(set(threads.values())) == 1, f"unequal threads: {threads}"
    own = found["accord"]
    seconds = [r["step"] + with_reference * r["reference"] for r in own]
    flops = [step_flops(work, ours, r, with_reference) for r in own]
    figure = {
        "name": name,
        "steps": given.steps,
        "accord": statistics.median(seconds),
        "accord_memory": max(r["memory"] for r in own),
        "share": statistics.median(f / s for f, s in zip(flops, seconds, strict=True)) / peak,
        "threads": workers["accord"].about["threads"],
    }
    if "trl" in found:
        figure["trl"] = statistics.median(r["step"] for r in found["trl"])
        pairs = zip(found["trl"], seconds, strict=True)
        figure["ratio"] = statistics.median(r["step"] / s for r, s in pairs)
        figure["trl_memory"] = max(r["memory"] for r in found["trl"])
    return figure


def step_flops(work: Work, method: str, result: dict[str, Any], with_reference: bool) -> float:
    """What a step needs at least: its matrix products, forward and twice that backward.

    The prompt once for all its responses, the vocabulary's head on response tokens only; neither
    attention's products nor anything computed again are counted. KTO's mismatched responses are
    read once by each model, besides.
    """
    config = work.config()
    layer = 4 * work.hidden**2 + 3 * work.hidden * config.intermediate_size
    forward = 2.0 * result["tokens"] * work.layers * layer
    if method != "reward":
        forward += 2.0 * result["response_tokens"] * work.hidden * work.vocabulary
    passes = 3 + with_reference + 2 * (method == "kto")
    return forward * passes


def matmul_peak(precision: str) -> float:
    """FLOP/s of the fastest of a few matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for n, k, m in ((2048, 2048, 2048), (2048, 512, 2048), (2048, 512, 512), (4096, 1024, 4096)):
        a, b = torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype)
        for _ in range(20):
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * n * k * m / (time.perf_counter() - began))
    return best


def told(figure: dict[str, Any]) -> str:
    line = f"{figure['name']}: accord {figure['accord']:.2f} s"
    if "trl" in figure:
        line += f", TRL {figure['trl']:.2f} s, {figure['ratio']:.1f} times faster"
    return line


def table(figures: Sequence[dict[str, Any]], given: Any) -> Table:
    title = f"{given.work}: {given.rows} rows a step, {given.precision}, median of {given.steps}"
    out = Table(title=title)
    for column in ("a step of", "accord", "TRL", "faster", "memory", "TRL's", "share", "of peak"):
        out.add_column(column, justify="left" if column == "a step of" else "right")
    for f in figures:
        their = "trl" in f
        out.add_row(
            f["name"],
            f"{f['accord']:.2f} s",
            f"{f['trl']:.2f} s" if their else "",
            f"{f['ratio']:.1f}×" if their else "",
            f"{f['accord_memory'] / 1024:.2f} GB",
            f"{f['trl_memory'] / 1024:.2f} GB" if their else "",
            f"{f['accord_memory'] / f['trl_memory']:.2f}" if their else "",
            f"{100 * f['share']:.0f}%",
        )
    return out


if __name__ == "__main__":
    main()
