"""Tokens a second of accord's sampling beside transformers' `generate`, and beside vLLM.

All answer the same prompts with the same saved model in bf16, in turns; a ratio is the median of
the turns' ratios, of one machine in one hour. Both wall-clock time and processor time are reported;
a busy machine disturbs the latter less. vLLM is included if ACCORD_VLLM_PYTHON names a Python that
has it; its server may use the cores that this process may (pin it with `taskset`), and is idle
while the others work. Its client's processor time is not the server's, so it has wall-clock time
alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker, alternate
from workers.vllm_server import VllmServer, vllm_python
from workers.workload import WORKLOADS, write_workload

WORKER = "sampling_steps.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=8, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="of each response")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--without-generate", action="store_true")
    parser.add_argument("--work", choices=WORKLOADS, default="standard")
    parser.add_argument("--vocabulary", type=int, help="words, if not the workload's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="a workload that another benchmark wrote")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    python = vllm_python()
    if python is None:
        print("Without vLLM: set ACCORD_VLLM_PYTHON to a Python that has it.")
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = args.folder or Path(temporary) / "work"
        if not folder.is_dir():
            work = WORKLOADS[args.work]
            if args.vocabulary:
                work = replace(work, vocabulary=args.vocabulary)
            write_workload(work, folder, args.device)
        urls = {"accord": ""} | ({} if args.without_generate else {"generate": ""})
        if python is not None:
            arguments = ("--dtype", "bfloat16", "--generation-config", "vllm")
            server = stack.enter_context(
                closing(VllmServer(python, remove_eos(folder), *arguments))
            )
            urls["vllm"] = server.url
        sizes = (str(args.prompts), str(args.responses), str(args.tokens))
        workers = {
            name: stack.enter_context(
                closing(Worker(sys.executable, WORKER, name, str(folder), *sizes, url, args.device))
            )
            for name, url in urls.items()
        }
        results = alternate(workers, warmup=args.warmup, steps=args.turns)
    figures = [compute_figure(name, results) for name in results]
    num_tokens = args.prompts * args.responses * args.tokens
    for name in results.keys() - {"vllm"}:  # a server may end a response now and then
        assert all(r["tokens"] == num_tokens for r in results[name])
    Console().print(make_table(figures, args))
    write_json(args.json, {"machine": facts, "figures": figures})


def remove_eos(folder: Path) -> Path:
    """Remove the EOS token from the model's configuration, which a server reads."""
    model = folder / "model"
    for name in ("config.json", "generation_config.json"):
        config = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**config, "eos_token_id": None}))
    return model


def compute_figure(name: str, results: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """By clock, medians over turns: tokens per second, and the ratio of accord's to them."""
    figure: dict[str, Any] = {"name": name}
    for clock in ("seconds", "cpu_seconds"):
        rates, accord_rates = (
            [r["tokens"] / r[clock] for r in results[n]] for n in (name, "accord")
        )
        figure[clock] = {
            "tokens": statistics.median(rates),
            "ratio": statistics.median(b / a for a, b in zip(rates, accord_rates, strict=True)),
        }
    return figure


def make_table(figures: Sequence[dict[str, Any]], args: argparse.Namespace) -> Table:
    title = (
        f"{args.prompts} prompts × {args.responses} responses × {args.tokens} tokens, "
        f"{args.work}, bf16, median of {args.turns}"
    )
    table = Table(title=title)
    columns = ("sampler", "tokens a second", "accord is faster", "by the processor's", "faster")
    for column in columns:
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for f in figures:
        cells = []
        for clock in ("seconds", "cpu_seconds"):
            is_measured = clock == "seconds" or f["name"] != "vllm"
            cells.append(f"{f[clock]['tokens']:,.0f}" if is_measured else "")
            has_ratio = is_measured and f["name"] != "accord"
            cells.append(f"{f[clock]['ratio']:.1f}×" if has_ratio else "")
        table.add_row(f["name"], *cells)
    return table


if __name__ == "__main__":
    main()
