"""A coefficient of agreement with its bootstrap interval, or the reason why it is not defined.

Every coefficient here is 1 − D_o/D_e, the observed disagreement over the one expected by chance.
They differ in what counts as disagreement and as chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from accord.measure.statistics import Floats, unseen_share

Disagreements = tuple[Floats, Floats]
"""Observed and expected disagreement [B] of B samples; no pair to compare gives NaN."""
Statistic = Callable[[Floats], Disagreements]
"""From frequencies [B, P] of patterns of items to the disagreements of each sample."""

FEW_ITEMS = 20  # below this a bootstrap interval is rough


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A coefficient of agreement, 1 at full agreement and 0 at that of chance.

    `value` is None where it is not defined, and `undefined` says why. `low` and `high` bound the
    interval, None where an end is open or unknown. `observed` and `expected` are the agreements
    (1 less the disagreement) that it compares; `note` is what to know about the interval.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    items: int = 0
    ratings: int = 0
    observed: float | None = None
    expected: float | None = None
    undefined: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: not defined, because {self.undefined}"
        span = ", no interval" if self.low is self.high is None else ""
        if not span:
            low, high = ("open" if b is None else f"{b:.3f}" for b in (self.low, self.high))
            span = f" ({low} to {high})"
        return f"{self.name}: {self.value:.3f}{span}, {self.items:,} items"


def not_defined(name: str, reason: str, *, items: int = 0, ratings: int = 0) -> Coefficient:
    return Coefficient(name, None, items=items, ratings=ratings, undefined=reason)


def estimate(
    name: str,
    statistic: Statistic,
    frequency: Floats,
    samples: Iterable[Floats],
    *,
    ratings: int,
    confidence: float,
    largest: float = 1.0,
) -> Coefficient:
    """The coefficient of the items [P] with the percentile interval over bootstrap samples.

    `largest` is the most that one item can disagree. Where no item disagrees, no sample does, and
    the bootstrap's interval has no width. Then its lower bound is that of the largest share of
    disagreeing items that N items without one leave possible, 1 − (α/2)^(1/N) (Clopper and Pearson
    1934).
    """
    items = int(frequency.sum())
    observed, expected = (float(part[0]) for part in statistic(frequency[None]))
    if not expected > 0:
        reason = "every rating has the same value, so there is no disagreement to expect by chance"
        return not_defined(name, reason, items=items, ratings=ratings)
    value = 1 - observed / expected
    low: float | None = None
    high: float | None = None
    note = ""
    if items == 1:
        note = "one item has no interval"
    elif observed == 0:
        share = unseen_share(items, confidence=confidence)
        low, high = 1 - share * largest / expected, 1.0
        note = f"no item disagrees: the lower bound is the exact one of 0 in {items:,}"
    else:
        low, high, note = _percentiles(statistic, samples, confidence)
        if items < FEW_ITEMS:
            note = f"{note}; " * bool(note) + f"an interval from {items} items is rough"
    return Coefficient(
        name,
        value,
        low,
        high,
        items,
        ratings,
        observed=1 - observed,
        expected=1 - expected,
        note=note,
    )


def _percentiles(
    statistic: Statistic, samples: Iterable[Floats], confidence: float
) -> tuple[float | None, float | None, str]:
    """The bounds over samples; one in which the coefficient is not defined widens both ends."""
    drawn: list[Floats] = []
    for frequency in samples:
        observed, expected = statistic(frequency)
        defined = expected > 0
        drawn.append(np.where(defined, 1 - observed / np.where(defined, expected, 1.0), np.nan))
    if not drawn:
        return None, None, "nothing was resampled"
    values = np.concatenate(drawn)
    undefined = np.isnan(values)
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(undefined, -np.inf, values), tail, method="lower")
    high = np.quantile(np.where(undefined, np.inf, values), 1 - tail, method="higher")
    note = ""
    if undefined.any():
        note = f"not defined in {int(undefined.sum()):,} of {len(values):,} bootstrap samples"
    bounds = [float(bound) if math.isfinite(bound) else None for bound in (low, high)]
    return bounds[0], bounds[1], note
