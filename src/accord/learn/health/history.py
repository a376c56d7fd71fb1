"""The history of a run: its metrics over time, and the remarks that are made on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

Row = Mapping[str, Any]
Level = Literal["warning", "note", "good"]

SEGMENTS = 10  # of a run, whose means are compared: one noisy step decides nothing
SIGNIFICANT = 3.0  # standard errors beyond which a change is not noise


@dataclass(frozen=True, slots=True)
class HealthRemark:
    """One remark: what it is about, how serious, and a sentence or two with the remedy."""

    about: str
    level: Level
    text: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class MetricHistory:
    """Means of a metric over parts of the rows; where a part lacks the metric, None."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.window = max(1, len(rows) // SEGMENTS)

    def first(self, name: str) -> float | None:
        """Over the first tenth."""
        return mean_of(self.rows[: self.window], name)

    def last(self, name: str) -> float | None:
        """Over the last tenth."""
        return mean_of(self.rows[-self.window :], name)

    def second_half(self, name: str) -> float | None:
        """Over the second half."""
        return mean_of(self.rows[len(self.rows) // 2 :], name)

    def change(self, name: str) -> float | None:
        first, last = self.first(name), self.last(name)
        return None if first is None or last is None else last - first

    def first_logged(self, *names: str) -> str | None:
        """The first of these names that was logged."""
        return next(
            (name for name in names if any(is_number(r.get(name)) for r in self.rows)), None
        )

    def tenths(self, name: str) -> list[tuple[int, float]]:
        """The mean of each tenth of the run, with the step that the tenth ends on."""
        means = []
        for i in range(SEGMENTS):
            start, stop = (len(self.rows) * j // SEGMENTS for j in (i, i + 1))
            mean = mean_of(self.rows[start:stop], name)
            if mean is not None:
                means.append((int(self.rows[stop - 1].get("step", stop)), mean))
        return means

    def noise(self, name: str, rows: int) -> float:
        """The standard error of the metric's mean over so many rows.

        The variance of a row is half the mean square of the differences from row to row (von
        Neumann et al. 1941), to which a slow trend adds little.
        """
        values = [float(r[name]) for r in self.rows if is_number(r.get(name))]
        steps = [(b - a) ** 2 for a, b in pairwise(values)]
        variance = sum(steps) / (2 * len(steps)) if steps else 0.0
        return math.sqrt(variance / max(1, rows))

    def moved(self, name: str) -> bool:
        """Whether it changed from the first tenth to the last by more than noise."""
        change = self.change(name)
        noise = math.sqrt(2) * self.noise(name, self.window)
        return change is not None and abs(change) > SIGNIFICANT * noise

    def rose(self, name: str) -> bool:
        """Whether it grew from the first tenth to the last by more than noise."""
        return self.moved(name) and (self.change(name) or 0.0) > 0


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    """A metric's mean over those rows that have it."""
    values = [float(r[name]) for r in rows if is_number(r.get(name))]
    return sum(values) / len(values) if values else None


def is_number(value: Any) -> bool:
    """Whether a logged value is a finite number; what was not finite is logged as null."""
    return isinstance(value, int | float) and math.isfinite(value)
