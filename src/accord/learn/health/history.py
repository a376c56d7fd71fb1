"""The metrics of a run over time, and the remarks on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

Row = Mapping[str, Any]
Level = Literal["warning", "note", "good"]

SEGMENTS = 10  # parts of a run; their means are compared, so that one noisy step decides nothing
SIGNIFICANT = 3.0  # standard errors; a larger change is not noise


@dataclass(frozen=True, slots=True)
class HealthRemark:
    """A subject, a level, and a sentence or two that end with the remedy. `step` is the first step
    at which the run was found so, where that is known."""

    about: str
    level: Level
    text: str
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class MetricHistory:
    """Means of a metric over parts of the logged rows; None for a part that lacks the metric."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.window = max(1, len(rows) // SEGMENTS)

    def first(self, name: str) -> float | None:
        """The mean over the first tenth."""
        return metric_mean(self.rows[: self.window], name)

    def last(self, name: str) -> float | None:
        """The mean over the last tenth."""
        return metric_mean(self.rows[-self.window :], name)

    def second_half(self, name: str) -> float | None:
        """The mean over the second half."""
        return metric_mean(self.rows[len(self.rows) // 2 :], name)

    def change(self, name: str) -> float | None:
        """The last tenth's mean minus the first tenth's."""
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
            mean = metric_mean(self.rows[start:stop], name)
            if mean is not None:
                means.append((int(self.rows[stop - 1].get("step", stop)), mean))
        return means

    def noise(self, name: str, rows: int) -> float:
        """The standard error of the metric's mean over `rows` rows.

        The variance of a row is estimated as half the mean square of the differences between
        successive rows (von Neumann et al. 1941), to which a slow trend adds little.
        """
        values = [float(r[name]) for r in self.rows if is_number(r.get(name))]
        squares = [(b - a) ** 2 for a, b in pairwise(values)]
        variance = sum(squares) / (2 * len(squares)) if squares else 0.0
        return math.sqrt(variance / max(1, rows))

    def moved(self, name: str) -> bool:
        """Whether it changed from the first tenth to the last by more than noise."""
        change = self.change(name)
        noise = math.sqrt(2) * self.noise(name, self.window)
        return change is not None and abs(change) > SIGNIFICANT * noise

    def rose(self, name: str) -> bool:
        """Whether it grew from the first tenth to the last by more than noise."""
        return self.moved(name) and (self.change(name) or 0.0) > 0


def metric_mean(rows: Sequence[Row], name: str) -> float | None:
    """A metric's mean over those rows that have it."""
    values = [float(r[name]) for r in rows if is_number(r.get(name))]
    return sum(values) / len(values) if values else None


def is_number(value: Any) -> bool:
    """Whether a logged value is a finite number; what was not finite is logged as null."""
    return isinstance(value, int | float) and math.isfinite(value)
