"""Rows that are made from others, each when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from accord.lm.packing import PromptGroup


@dataclass(frozen=True, slots=True)
class DerivedRows(Sequence[PromptGroup]):
    """`make(i)` is row i. The lengths (G,) and the digest of all are known without making them, as
    `CountedRows` has them."""

    make: Callable[[int], PromptGroup]
    num_tokens: NDArray[np.int32]
    num_targets: NDArray[np.int32]
    digest: str

    def __len__(self) -> int:
        return len(self.num_tokens)

    @overload
    def __getitem__(self, index: int) -> PromptGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[PromptGroup]: ...
    def __getitem__(self, index: int | slice) -> PromptGroup | list[PromptGroup]:
        rows = range(len(self))[index]
        return self.make(rows) if isinstance(rows, int) else [self.make(i) for i in rows]

    def __iter__(self) -> Iterator[PromptGroup]:
        return map(self.make, range(len(self)))
