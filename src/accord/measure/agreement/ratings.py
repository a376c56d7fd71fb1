"""Ratings as integer codes, and the distinct patterns of values that items received.

All coefficients depend on an item only through how often it received each value (Krippendorff
2011, section C; Fleiss 1971). Items with equal counts form one pattern, so the cost of a bootstrap
is that of the patterns, not of the ratings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from accord.errors import DataError
from accord.measure.statistics import Floats

Codes = NDArray[np.int64]

BLOCK = 4_000_000  # drawn numbers in memory at a time: 32 MB
MAX_KEY_BITS = 62
FEW_PATTERNS = 10  # items to a pattern, from which a multinomial draw is cheaper


@dataclass(frozen=True, slots=True)
class CodedRatings:
    """N ratings: `item[i]` and `rater[i]` index `items` and `raters`, `value[i]` indexes `values`.

    `values` are in ascending order, or in the order of the categories that were given. `missing`
    counts the ratings without a value, which are left out.
    """

    item: Codes
    rater: Codes
    value: Codes
    items: tuple[Any, ...]
    raters: tuple[Any, ...]
    values: tuple[Any, ...]
    missing: int = 0

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, slots=True)
class ItemPatterns:
    """P patterns of N items: how often a pattern's items received each of V values.

    `counts` [P, V] is sparse, `frequency` [P] the number of items of each pattern, and `of_item`
    [N] the pattern of each item.
    """

    counts: csr_array
    frequency: Floats
    of_item: Codes

    @property
    def ratings(self) -> Floats:
        """The number of ratings that an item of each pattern has, [P]."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()

    def totals(self, frequency: Floats) -> Floats:
        """How often each value occurs [B, V], where pattern p has frequency[b, p] items."""
        return np.asarray((self.counts.T @ frequency.T).T)


def code_ratings(
    items: Sequence[Any],
    raters: Sequence[Any],
    values: Sequence[Any],
    *,
    categories: Sequence[Any] | None = None,
) -> CodedRatings:
    """Ratings from three columns: rater `raters[i]` gave item `items[i]` the value `values[i]`.

    A value of None or NaN is a missing rating. `categories` are all values that can be given, in
    their order; without them the values are those that occur, ascending. Raises DataError where the
    columns differ in length, a rater rates an item twice, a value is none of the categories, or the
    values have no order.
    """
    if not len(items) == len(raters) == len(values):
        raise DataError(
            f"There are {len(items)} items, {len(raters)} raters and {len(values)} values. Give "
            f"one of each for every rating."
        )
    present = ~_is_missing(values)
    columns = [_select(column, present) for column in (items, raters, values)]
    (item, item_names), (rater, rater_names) = (_code(column) for column in columns[:2])
    value, value_names = _code_values(columns[2], categories)
    coded = CodedRatings(
        item, rater, value, item_names, rater_names, value_names, int((~present).sum())
    )
    _require_single(coded)
    return coded


def _is_missing(values: Sequence[Any]) -> NDArray[np.bool_]:
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.dtype.kind in "iub":
        return np.zeros(len(array), dtype=np.bool_)
    if array is not None and array.dtype.kind == "f":
        return np.isnan(array)
    missing = (v is None or (isinstance(v, float) and math.isnan(v)) for v in values)
    return np.fromiter(missing, dtype=np.bool_, count=len(values))


def _select(column: Sequence[Any], present: NDArray[np.bool_]) -> Sequence[Any]:
    if isinstance(column, np.ndarray):
        return column[present]
    if present.all():
        return column
    return [entry for entry, is_present in zip(column, present.tolist(), strict=True) if is_present]


def _code(column: Sequence[Any]) -> tuple[Codes, tuple[Any, ...]]:
    """Codes and names in the order in which they first occur (ascending for an array)."""
    if isinstance(column, np.ndarray):
        names, codes = np.unique(column, return_inverse=True)
        return codes.astype(np.int64).ravel(), tuple(names.tolist())
    index: dict[Any, int] = {}
    coded = (index.setdefault(name, len(index)) for name in column)
    return np.fromiter(coded, dtype=np.int64, count=len(column)), tuple(index)


def _code_values(
    column: Sequence[Any], categories: Sequence[Any] | None
) -> tuple[Codes, tuple[Any, ...]]:
    codes, names = _code(column)
    if categories is None:
        try:
            ordered = sorted(names)
        except TypeError:
            raise DataError(
                "The ratings mix values that have no common order, such as numbers and texts. "
                "Give values of one type, or the categories in their order."
            ) from None
    else:
        ordered = list(categories)
        unknown = [name for name in names if name not in set(ordered)]
        if unknown or len(set(ordered)) < len(ordered):
            shown = ", ".join(map(repr, ordered))
            fault = f"{unknown[0]!r} is none of them" if unknown else "one of them occurs twice"
            raise DataError(f"The categories are {shown}, and {fault}. Correct the categories.")
    position = {name: i for i, name in enumerate(ordered)}
    order = np.array([position[name] for name in names], dtype=np.int64)
    return (order[codes] if len(codes) else codes), tuple(ordered)


def _require_single(ratings: CodedRatings) -> None:
    key = ratings.item * max(1, len(ratings.raters)) + ratings.rater
    ordered = np.sort(key)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        item, rater = divmod(int(repeated[0]), len(ratings.raters))
        raise DataError(
            f"{ratings.raters[rater]!r} rates the item {ratings.items[item]!r} more than once. "
            f"Pass the rating that counts, such as the last one."
        )


def find_patterns(ratings: CodedRatings) -> ItemPatterns:
    """The patterns of the items' values."""
    shape = (len(ratings.items), len(ratings.values))
    ones = np.ones(len(ratings), dtype=np.int64)
    counts = csr_array((ones, (ratings.item, ratings.value)), shape=shape)
    counts.sum_duplicates()
    base = int(counts.data.max(initial=0)) + 1
    if shape[1] * math.log2(base) < MAX_KEY_BITS:  # a pattern's counts are the digits of its key
        keys = counts @ (base ** np.arange(shape[1], dtype=np.int64))
        _, first, of_item = np.unique(keys, return_index=True, return_inverse=True)
        frequency = np.bincount(of_item.ravel(), minlength=len(first))
        return ItemPatterns(
            counts[first].astype(np.float64), frequency.astype(np.float64), of_item.ravel()
        )
    return ItemPatterns(counts.astype(np.float64), np.ones(shape[0]), np.arange(shape[0]))


def resample_items(
    frequency: Floats, of_item: Codes, rounds: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Frequencies [B, P] of the patterns in `rounds` bootstrap samples of the items, in blocks.

    Items are drawn with replacement (Efron 1979); where patterns are few, their frequencies are
    drawn from the multinomial distribution that this amounts to.
    """
    items, patterns = len(of_item), len(frequency)
    block = max(1, BLOCK // max(1, patterns))
    for start in range(0, rounds, block):
        size = min(block, rounds - start)
        if patterns * FEW_PATTERNS < items:
            yield rng.multinomial(items, frequency / items, size=size).astype(np.float64)
            continue
        drawn = np.empty((size, patterns))
        for row in drawn:
            picked = of_item[rng.integers(0, items, items)]
            row[:] = np.bincount(picked, minlength=patterns)
        yield drawn
