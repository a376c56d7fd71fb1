"""Rows per second and peak memory of `accord data check`, over the number of rows.

    python benchmarks/data_check.py --rows 10000 100000 1000000

The processor's seconds are those that a machine without other work takes. Each number of rows is
a new file of pairs (prompts of some 12 words, responses of some 35) and a new process, for its peak
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine_report import version_line, write_json

WORDS = 20_000  # distinct words, drawn with the frequencies of Zipf's law


def write_pairs(path: Path, rows: int, seed: int = 0) -> None:
    """A file of `rows` pairs without defects."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(WORDS)]
    weights = [1 / (rank + 10) for rank in range(WORDS)]
    drawn = rng.choices(words, weights, k=1_000_000)  # text is cut from it at random positions

    def text(length: int, end: str) -> str:
        at = rng.randrange(len(drawn) - length)
        return " ".join(drawn[at : at + length]).capitalize() + end

    with path.open("w") as file:
        for _ in range(rows):
            row = {
                "prompt": text(rng.randint(6, 18), "?"),
                "chosen": f"{text(rng.randint(8, 20), '.')} {text(rng.randint(8, 30), '.')}",
                "rejected": f"{text(rng.randint(8, 20), '.')} {text(rng.randint(8, 30), '.')}",
            }
            file.write(json.dumps(row) + "\n")


def measure(path: Path) -> tuple[float, float, float]:
    """Seconds, the processor's seconds, and peak memory in MB of one check in a new process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "accord", "data", "check", str(path), "--fail-on", "never"]
    child = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the check ended with status {status}")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path, help="also write the points here")
    args = parser.parse_args(arguments)
    points = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pairs.jsonl"
            write_pairs(path, rows)
            size = path.stat().st_size / 1e6
            seconds, cpu, memory = measure(path)
        points.append(
            {
                "rows": rows,
                "file_mb": size,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "memory_mb": memory,
            }
        )
        print(
            f"{rows:,} rows, {size:,.0f} MB: {seconds:.1f} s, {cpu:.1f} s of the "
            f"processor ({rows / cpu:,.0f} rows in each), peak {memory:,.0f} MB",
            flush=True,
        )
    if args.json:
        write_json(args.json, {"points": points, "version": version_line()})


if __name__ == "__main__":
    main()
