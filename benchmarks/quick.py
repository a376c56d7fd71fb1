"""What anyone can time in seconds: how soon the command answers, how long a rating takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

import accord
from accord.measure.ratings.rate import rate_models
from accord.records import Outcome
from accord.runs import machine

MODELS = 30
BATTLES = 100_000


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The middle of `repeats` timings after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def drawn_counts(seed: int = 0) -> dict[tuple[str, str, Outcome], int]:
    """How often each of two models won or tied, drawn from Bradley-Terry strengths."""
    generator = np.random.default_rng(seed)
    strengths = generator.normal(0, 1, MODELS)
    pairs = [(i, j) for i in range(MODELS) for j in range(i + 1, MODELS)]
    each = BATTLES // len(pairs)
    counts: dict[tuple[str, str, Outcome], int] = {}
    for i, j in pairs:
        chance = 1 / (1 + np.exp(strengths[j] - strengths[i]))
        a, b, tie = generator.multinomial(each, [0.9 * chance, 0.9 * (1 - chance), 0.1])
        names = (f"model-{i}", f"model-{j}")
        counts |= {(*names, "a"): int(a), (*names, "b"): int(b), (*names, "tie"): int(tie)}
    return counts


def main() -> None:
    seen = machine()
    print(f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seen['cpu']}, {seen['cores']} cores, {seen['system']}")
    command = [sys.executable, "-m", "accord", "--help"]
    seconds = median_seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    print(f"accord --help: {seconds:.3f} s")
    counts = drawn_counts()
    seconds = median_seconds(lambda: rate_models(counts, bootstrap=200))
    print(f"rating {MODELS} models by {BATTLES:,} battles, 200 bootstrap rounds: {seconds:.3f} s")


if __name__ == "__main__":
    main()
