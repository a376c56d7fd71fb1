"""How long a long prompt delays the responses beside it: read at once, or in parts.

    python benchmarks/long_prompt.py --model SMOLLM2

Streams of greedy tokens run in one continuous batch; then a request with a long prompt joins. A
delay is the longest step while the prompt is read, in processor seconds and as a multiple of a
step without it. Each side runs in turn, several times.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from machine_report import print_machine
from rich.console import Console
from rich.table import Table

from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.respond.local.continuous import ContinuousBatch, LocalRequest
from accord.respond.local.decode_batch import DecodeBatch
from accord.respond.local.memory import prefix_pool
from accord.respond.protocol import SamplingSettings

SHORT = 40  # tokens of each stream's prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the long prompt")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    print_machine()
    lm = load_causal(str(args.model), precision="bf16", device="cpu")
    lm.model.eval()
    sides: dict[str, list[tuple[float, float, float]]] = {"at once": [], "in parts": []}
    with torch.no_grad(), lm.precision_context(), prepacked_linears(lm, 64) as head:
        for turn in range(args.turns + 1):
            for name, figures in sides.items():
                pool = prefix_pool(lm) if name == "in parts" else None
                batch = ContinuousBatch(lm, DecodeBatch(lm, head, pool), max_rows=64)
                measured = measure(lm, batch, args.streams, args.prompt, seed=turn)
                if turn:  # the first one warms up
                    figures.append(measured)
    table = Table(title=f"{args.streams} streams, then a prompt of {args.prompt} tokens")
    for column in ("the prompt is read", "longest delay, s", "in steps", "its first token, s"):
        table.add_column(column, justify="right")
    for name, figures in sides.items():
        step, longest, first = (median(column) for column in zip(*figures, strict=True))
        table.add_row(name, f"{longest:.2f}", f"{longest / step:.0f}", f"{first:.2f}")
    Console().print(table)


def measure(
    lm: LanguageModel, batch: ContinuousBatch, streams: int, length: int, seed: int
) -> tuple[float, float, float]:
    """Processor seconds of a usual step, of the longest one while the prompt is read, and until
    the long prompt's first token."""
    generator = torch.Generator().manual_seed(seed)

    def submit(key: int, tokens: int) -> None:
        ids = torch.randint(100, len(lm.tokenizer) // 2, (tokens,), generator=generator)
        settings = SamplingSettings(temperature=0.0, max_new_tokens=200)
        batch.submit(LocalRequest(key, tuple(ids.tolist()), settings, seed))

    for key in range(streams):
        submit(key, SHORT)
    usual = [timed_step(batch)[0] for _ in range(8)]
    submit(streams, length)
    times: list[float] = []
    arrived = False
    while not arrived:
        seconds, keys = timed_step(batch)
        times.append(seconds)
        arrived = streams in keys
    batch.clear()
    return median(usual[2:]), max(times), sum(times)


def timed_step(batch: ContinuousBatch) -> tuple[float, set[object]]:
    start = time.process_time()
    outputs = batch.step()
    return time.process_time() - start, {output.key for output in outputs}


if __name__ == "__main__":
    main()
