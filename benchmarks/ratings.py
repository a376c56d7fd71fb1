"""How long a rating takes: Bradley-Terry strengths of many models with bootstrap intervals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from machine_report import print_machine

from accord.measure.ratings.rate import rate_models
from accord.records import Outcome

MODELS = 30
BATTLES = 100_000


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The median of `repeats` timings after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start_time)
    return statistics.median(seconds)


def draw_counts(seed: int = 0) -> dict[tuple[str, str, Outcome], int]:
    """How often each of two models won or tied, drawn from Bradley-Terry strengths."""
    generator = np.random.default_rng(seed)
    strengths = generator.normal(0, 1, MODELS)
    pairs = [(i, j) for i in range(MODELS) for j in range(i + 1, MODELS)]
    battles_per_pair = BATTLES // len(pairs)
    counts: dict[tuple[str, str, Outcome], int] = {}
    for i, j in pairs:
        p_win = 1 / (1 + np.exp(strengths[j] - strengths[i]))
        shares = [0.9 * p_win, 0.9 * (1 - p_win), 0.1]
        a, b, tie = generator.multinomial(battles_per_pair, shares)
        names = (f"model-{i}", f"model-{j}")
        counts |= {(*names, "a"): int(a), (*names, "b"): int(b), (*names, "tie"): int(tie)}
    return counts


def main() -> None:
    print_machine()
    counts = draw_counts()
    seconds = median_seconds(lambda: rate_models(counts, bootstrap=200))
    print(f"rating {MODELS} models by {BATTLES:,} battles, 200 bootstrap rounds: {seconds:.3f} s")


if __name__ == "__main__":
    main()
