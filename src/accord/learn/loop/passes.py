"""How rows are dealt to forward passes, so that all passes have about as many tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence


def deal(
    sizes: Sequence[int], count: int, *, most: int | None, multiple: int = 1
) -> list[list[int]]:
    """Places 0, 1, … of rows with `sizes` tokens, dealt to `count` passes.

    There are more passes, their number a multiple, where one would have more than `most` tokens,
    unless each has a single row.
    """
    while True:
        dealt = _dealt(sizes, count)
        largest = max(sum(sizes[place] for place in part) for part in dealt)
        if most is None or largest <= most or count == len(sizes):
            return dealt
        count += multiple - count % multiple
        count = min(count, len(sizes))


def row_batches(sizes: Sequence[int], size: int, *, most: int | None = None) -> Iterator[list[int]]:
    """Places of rows with `sizes` tokens, `size` at a time in order; these are dealt to several
    passes where one would have more than `most` tokens."""
    for start in range(0, len(sizes), size):
        for part in deal(sizes[start : start + size], 1, most=most):
            yield [start + place for place in part]


def _dealt(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The largest first, each to the part with the fewest tokens; parts keep the rows' order."""
    parts: list[list[int]] = [[] for _ in range(count)]
    lightest = [(0, 0, part) for part in range(count)]  # tokens, rows, which
    for place in sorted(range(len(sizes)), key=lambda p: (-sizes[p], p)):
        total, held, part = heapq.heappop(lightest)
        parts[part].append(place)
        heapq.heappush(lightest, (total + sizes[place], held + 1, part))
    return [sorted(part) for part in parts if part]
