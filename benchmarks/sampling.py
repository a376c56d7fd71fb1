"""Tokens a second of accord's sampling beside transformers' `generate`, and beside vLLM.

All answer the same prompts with the same saved model in bf16, in turns; a ratio is the median of
the turns' ratios, of one machine in one hour. Beside the time that passed stands the processor's
own, which a busy machine disturbs less. vLLM takes part where ACCORD_VLLM_PYTHON names a Python
that has it; its server may use the cores that this process may (pin it with `taskset`), and waits
while the others work. What it computes is not its client's time: it has the time that passed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from workers.lockstep import Worker, alternate
from workers.vllm_server import VllmServer, vllm_python
from workers.workload import Work, write

import accord
from accord.runs import machine

WORKER = "sampling_steps.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=8, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="of each response")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--without-generate", action="store_true")
    parser.add_argument("--vocabulary", type=int, default=Work.vocabulary)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    seen = machine()
    print(f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seen['cpu']}, {len(os.sched_getaffinity(0))} of {seen['cores']} cores used")
    python = vllm_python()
    if python is None:
        print("Without vLLM: set ACCORD_VLLM_PYTHON to a Python that has it.")
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary) / "work"
        write(Work(vocabulary=given.vocabulary), folder)
        urls = {"accord": ""} | ({} if given.without_generate else {"generate": ""})
        if python is not None:
            arguments = ("--dtype", "bfloat16", "--generation-config", "vllm")
            server = stack.enter_context(
                closing(VllmServer(python, without_eos(folder), *arguments))
            )
            urls["vllm"] = server.url
        sizes = (str(given.prompts), str(given.responses), str(given.tokens))
        workers = {
            name: stack.enter_context(
                closing(Worker(sys.executable, WORKER, name, str(folder), *sizes, url))
            )
            for name, url in urls.items()
        }
        found = alternate(workers, warmup=given.warmup, steps=given.turns)
    figures = [figure(name, found) for name in found]
    wanted = given.prompts * given.responses * given.tokens
    for name in found.keys() - {"vllm"}:  # a server may end a response now and then
        assert all(r["tokens"] == wanted for r in found[name])
    Console().print(table(figures, given))
    if given.json:
        given.json.write_text(json.dumps({"machine": seen, "figures": figures}, indent=1))


def without_eos(folder: Path) -> Path:
    """The model with no token that ends a response, for a server that is told in the folder."""
    model = folder / "model"
    for name in ("config.json", "generation_config.json"):
        held = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**held, "eos_token_id": None}))
    return model


def figure(name: str, found: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Medians by clock: tokens a second, and how many times as many accord's were in the turn."""
    told: dict[str, Any] = {"name": name}
    for clock in ("seconds", "cpu_seconds"):
        rates, own = ([r["tokens"] / r[clock] for r in found[n]] for n in (name, "accord"))
        told[clock] = {
            "tokens": statistics.median(rates),
            "ratio": statistics.median(b / a for a, b in zip(rates, own, strict=True)),
        }
    return told


def table(figures: Sequence[dict[str, Any]], given: argparse.Namespace) -> Table:
    title = (
        f"{given.prompts} prompts × {given.responses} responses × {given.tokens} tokens, "
        f"{given.vocabulary:,} words, bf16, median of {given.turns}"
    )
    out = Table(title=title)
    columns = ("sampler", "tokens a second", "accord is faster", "by the processor's", "faster")
    for column in columns:
        out.add_column(column, justify="left" if column == "sampler" else "right")
    for f in figures:
        cells = []
        for clock in ("seconds", "cpu_seconds"):
            known = clock == "seconds" or f["name"] != "vllm"
            cells.append(f"{f[clock]['tokens']:,.0f}" if known else "")
            other = known and f["name"] != "accord"
            cells.append(f"{f[clock]['ratio']:.1f}×" if other else "")
        out.add_row(f["name"], *cells)
    return out


if __name__ == "__main__":
    main()
