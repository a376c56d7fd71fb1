"""Rows of results.json: what is known of a model, and how two models differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accord.measure.statistics import Interval, difference_interval

Row = Mapping[str, Any]

MEASURES = (("true_reward", "true reward", 3), ("elo", "Elo rating", 0))
"""What tells which model is better, the surest first, with its decimals."""


def known(row: Row, key: str) -> bool:
    return row.get(key) is not None


def interval(row: Row, key: str) -> Interval:
    """The value of `key` with its bounds; NaN where it is not known."""
    value = row.get(key)
    return Interval(
        math.nan if value is None else value, row.get(f"{key}_low"), row.get(f"{key}_high")
    )


def gap(a: Row, b: Row, key: str) -> Interval:
    """How much higher `a` is than `b`."""
    return difference_interval(interval(a, key), interval(b, key))


def told_apart(a: Row, b: Row, key: str) -> bool:
    """Whether the interval of the gap leaves out 0; an open end reaches everywhere."""
    between = gap(a, b, key)
    if between.low is None and between.high is None:
        bounded = known(a, f"{key}_low") or known(a, f"{key}_high")
        return between.mean != 0 and not bounded
    low = -math.inf if between.low is None else between.low
    high = math.inf if between.high is None else between.high
    return low > 0 or high < 0


def best_measure(rows: Sequence[Row]) -> tuple[str, str, int] | None:
    """The surest measure that at least two models have."""
    for key, name, digits in MEASURES:
        if sum(known(row, key) for row in rows) > 1:
            return key, name, digits
    return None
