"""Which rows a step learns from: a pure function of seed and step, so there is nothing to save."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


class RowOrder:
    """Epoch after epoch of `rows` row numbers, each epoch shuffled anew from the seed.

    Batches run on across the end of an epoch, so no row is ever left out.
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


def total_examples(rows: int, *, epochs: float, max_steps: int | None, step_size: int) -> int:
    """Examples a run sees: the epochs' worth, or exactly max_steps steps of step_size."""
    if max_steps is not None:
        return max_steps * step_size
    return max(1, parts_of_epochs(epochs, rows))


def parts_of_epochs(epochs: float, rows: int, each: int = 1) -> int:
    """How many parts of `each` rows so many epochs have, the last one begun included.

    Of the number as it is written: in floats 1.1 epochs of 100 rows are 110.00000000000001.
    """
    return math.ceil(Fraction(str(epochs)) * rows / each)
