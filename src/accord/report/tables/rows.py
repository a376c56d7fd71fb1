"""Rows of results.json: a model's values, and how two models differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accord.measure.measures import ranking_measures
from accord.measure.statistics import Interval, difference_interval

Row = Mapping[str, Any]


class Criterion(NamedTuple):
    """A measure that ranks models: its key, its name in sentences, and its decimals."""

    key: str
    name: str
    digits: int


def has_value(row: Row, key: str) -> bool:
    """Whether the row has a value for `key`."""
    return row.get(key) is not None


def row_interval(row: Row, key: str) -> Interval:
    """The value of `key` with its bounds; NaN where it is unknown."""
    value = row.get(key)
    return Interval(
        math.nan if value is None else value, row.get(f"{key}_low"), row.get(f"{key}_high")
    )


def difference(a: Row, b: Row, key: str) -> Interval:
    """The value of `a` less that of `b`, with its interval."""
    return difference_interval(row_interval(a, key), row_interval(b, key))


def differs_significantly(a: Row, b: Row, key: str) -> bool:
    """Whether the interval of the difference excludes 0; an open end is infinite."""
    interval = difference(a, b, key)
    if interval.low is None and interval.high is None:
        bounded = has_value(a, f"{key}_low") or has_value(a, f"{key}_high")
        return interval.mean != 0 and not bounded
    low = -math.inf if interval.low is None else interval.low
    high = math.inf if interval.high is None else interval.high
    return low > 0 or high < 0


def ranking_criteria() -> list[Criterion]:
    """The measures that can rank models, the most reliable first."""
    return [
        Criterion(measure.key, measure.ranks_as, measure.models.digits)
        for measure in ranking_measures()
        if measure.models is not None
    ]


def best_criterion(rows: Sequence[Row]) -> Criterion | None:
    """The most reliable criterion for which at least two models have a value."""
    for criterion in ranking_criteria():
        if sum(has_value(row, criterion.key) for row in rows) > 1:
            return criterion
    return None
