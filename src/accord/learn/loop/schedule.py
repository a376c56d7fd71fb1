"""Which rows each optimiser step and each forward pass has: a pure function of seed and step.

Nothing of it needs to be saved: a resumed run computes the same order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from accord.learn.loop.processes import Processes
from accord.lm.packing import PromptGroup
from accord.settings.training import TrainSettings


class RowOrder:
    """Epoch after epoch of `rows` row numbers, each epoch shuffled with its own seed.

    Batches continue across the end of an epoch, so no row is left out.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def at(self, position: int) -> int:
        """The row at a position of the endless sequence."""
        epoch, offset = divmod(position, self.rows)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._permutation = generator.permutation(self.rows)
            self._epoch = epoch
        return int(self._permutation[offset])

    def slice(self, start: int, stop: int) -> list[int]:
        return [self.at(i) for i in range(start, stop)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How rows are assigned to optimiser steps, and a step's rows to forward passes."""

    rows: int
    examples: int  # seen in the whole run
    micro_batch_size: int  # examples in a forward pass, on average
    accumulation: int
    world_size: int = 1
    max_tokens: int | None = None  # in a forward pass

    @property
    def examples_per_step(self) -> int:
        return self.micro_batch_size * self.accumulation * self.world_size

    @property
    def steps(self) -> int:
        return math.ceil(self.examples / self.examples_per_step)

    def step_rows(self, step: int, order: RowOrder) -> list[int]:
        """Row numbers of a step (from 0); the last step may be smaller."""
        start = step * self.examples_per_step
        return order.slice(start, min(start + self.examples_per_step, self.examples))

    def micro_batches(
        self, rows: Sequence[int], groups: Sequence[PromptGroup], processes: int | None = None
    ) -> list[list[int]]:
        """A step's rows split into forward passes with about equal numbers of tokens.

        There are as many passes as the settings say; more if one would exceed `max_tokens`, or if
        more `processes` share them than the run began with.
        """
        processes = processes or self.world_size
        count = max(1, math.ceil(len(rows) / self.micro_batch_size))
        if processes > self.world_size:
            count = max(count, processes)
        count = min(len(rows), count)
        sizes = [groups[i].num_tokens for i in rows]
        parts = balance_by_tokens(sizes, count, max_tokens=self.max_tokens, multiple=processes)
        return [[rows[i] for i in part] for part in parts]


def own_passes(
    parts: Sequence[list[int]], procs: Processes, *, lockstep: bool
) -> Iterator[tuple[list[int], bool]]:
    """This process's passes, and whether they count.

    In `lockstep`, as processes work that divide a model, each has as many passes: one that has
    fewer repeats another's, which does not count.
    """
    mine = parts[procs.rank :: procs.world_size]
    yield from ((part, True) for part in mine)
    if lockstep and len(mine) < math.ceil(len(parts) / procs.world_size):
        yield parts[-1], False


def make_schedule(rows: int, settings: TrainSettings, world_size: int = 1) -> Schedule:
    """The schedule of a data set of `rows` rows under the settings."""
    micro_batch_size = settings.per_device_train_batch_size
    accumulation = settings.gradient_accumulation_steps
    examples = total_examples(
        rows,
        epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        step_size=micro_batch_size * accumulation * world_size,
    )
    return Schedule(
        rows, examples, micro_batch_size, accumulation, world_size, settings.max_tokens_per_forward
    )


def should_evaluate(step: int, total: int, settings: TrainSettings) -> bool:
    """Whether held-out rows, if any, are evaluated after a step (from 1)."""
    return step == total or (settings.eval_steps is not None and step % settings.eval_steps == 0)


def should_grade(step: int, total: int, settings: TrainSettings) -> bool:
    """Whether the answers to `safety_dataset`, if any, are graded after a step (from 1)."""
    steps = settings.safety_steps
    return step == total or (steps is not None and step % steps == 0)


def should_log(step: int, total: int, settings: TrainSettings) -> bool:
    """Whether a step (from 1) has a row in metrics.jsonl: one that measures always has."""
    measures = should_evaluate(step, total, settings) or should_grade(step, total, settings)
    return measures or step % settings.logging_steps == 0


def total_examples(rows: int, *, epochs: float, max_steps: int | None, step_size: int) -> int:
    """Examples in a run: those of the epochs, or exactly max_steps steps of step_size."""
    if max_steps is not None:
        return max_steps * step_size
    return max(1, num_batches(epochs, rows))


def num_batches(epochs: float, rows: int, batch_size: int = 1) -> int:
    """How many batches of `batch_size` rows the epochs have, counting a last partial one.

    Exact in the decimal number as written: in floats, 1.1 epochs of 100 rows are
    110.00000000000001 rows.
    """
    return math.ceil(Fraction(str(epochs)) * rows / batch_size)


def balance_by_tokens(
    sizes: Sequence[int], count: int, *, max_tokens: int | None, multiple: int = 1
) -> list[list[int]]:
    """Indices 0, 1, … of rows with `sizes` tokens, split into `count` forward passes.

    There are more passes, their number a multiple of `multiple`, if one would have more than
    `max_tokens`, unless each already has a single row.
    """
    while True:
        parts = _largest_first(sizes, count)
        largest = max(sum(sizes[i] for i in part) for part in parts)
        if max_tokens is None or largest <= max_tokens or count == len(sizes):
            return parts
        count += multiple - count % multiple
        count = min(count, len(sizes))


def row_batches(
    sizes: Sequence[int], batch_size: int, *, max_tokens: int | None = None
) -> Iterator[list[int]]:
    """Indices of rows with `sizes` tokens, `batch_size` at a time in order; a batch with more than
    `max_tokens` is split."""
    for start in range(0, len(sizes), batch_size):
        for part in balance_by_tokens(sizes[start : start + batch_size], 1, max_tokens=max_tokens):
            yield [start + i for i in part]


def _largest_first(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The largest rows first, each to the part with the fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(count)]
    lightest = [(0, 0, part) for part in range(count)]  # tokens, rows, part
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        tokens, rows, part = heapq.heappop(lightest)
        parts[part].append(i)
        heapq.heappush(lightest, (tokens + sizes[i], rows + 1, part))
    return [sorted(part) for part in parts if part]
