"""Rows arranged so that accord's shuffled order visits them as they are in the file.

So both sides of a comparison take each step on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from accord.learn.loop.schedule import RowOrder

T = TypeVar("T")


def arrange_for_file_order(rows: Sequence[T], seed: int) -> list[T]:
    order = RowOrder(len(rows), seed)
    arranged = {order.at(i): row for i, row in enumerate(rows)}
    return [arranged[i] for i in range(len(rows))]
