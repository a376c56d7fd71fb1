"""The numbers that the rules on offline runs rest on, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import special

from accord.learn.health.history import SIGNIFICANT, MetricHistory, is_number, metric_mean


def exact_bounds(share: float, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of rows (Clopper and Pearson 1934)."""
    tail, hits = (1 - confidence) / 2, min(max(share, 0.0), 1.0) * rows
    low = special.betaincinv(hits, rows - hits + 1, tail) if hits > 0 else 0.0
    high = special.betaincinv(hits + 1, rows - hits, 1 - tail) if hits < rows else 1.0
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run's metrics on training rows and on held-out rows; `held_out` is the number of these."""

    history: MetricHistory
    settings: Mapping[str, Any]
    held_out: int | None

    def held_out_series(self, name: str) -> list[tuple[int, float]]:
        """A metric on the held-out rows at each evaluation, with its step."""
        key = f"eval/{name}"
        return [
            (int(row["step"]), float(row[key]))
            for row in self.history.rows
            if is_number(row.get(key))
        ]

    def last_held_out(self, name: str) -> float | None:
        """A metric at the last evaluation."""
        series = self.held_out_series(name)
        return series[-1][1] if series else None

    def is_held_out(self, name: str) -> bool:
        """Whether the metric was measured on held-out rows."""
        return bool(self.held_out_series(name))

    def late(self, name: str) -> float | None:
        """A metric at the last evaluation, or its mean over the second half of the steps."""
        value = self.last_held_out(name)
        return self.history.second_half(name) if value is None else value

    @property
    def rows_per_step(self) -> int:
        """Rows of a step, on one process at least."""
        batch = self.settings.get("per_device_train_batch_size") or 1
        return int(batch) * int(self.settings.get("gradient_accumulation_steps") or 1)

    def accuracy(self) -> tuple[float | None, int]:
        """The share of pairs that the rewards order as preferred, and the rows that it is of:
        held-out ones, or those of the second half of the steps."""
        accuracy = self.last_held_out("rewards/accuracies")
        if accuracy is not None and self.held_out:
            return accuracy, self.held_out
        half = len(self.history.rows) - len(self.history.rows) // 2
        return self.history.second_half("rewards/accuracies"), half * self.rows_per_step

    def rows_name(self, rows: int) -> str:
        """What `accuracy` is of, in words."""
        is_held_out = self.held_out and self.is_held_out("rewards/accuracies")
        return f"{rows:,} held-out pairs" if is_held_out else f"the last {rows:,} preferences"

    def mean_length(self, side: str) -> float | None:
        """The mean tokens of the chosen or rejected responses."""
        value = self.last_held_out(f"lengths/{side}")
        return metric_mean(self.history.rows, f"lengths/{side}") if value is None else value

    def all_lengths(self) -> tuple[float | None, float | None]:
        """The mean tokens of chosen and rejected responses over all steps."""
        rows = self.history.rows
        return metric_mean(rows, "lengths/chosen"), metric_mean(rows, "lengths/rejected")

    def lengths_differ(self) -> bool:
        """Whether chosen and rejected responses differ in length by more than steps vary.

        The differences of the steps of one epoch, whose rows are different ones, are independent.
        """
        rows = [row for row in self.history.rows if (row.get("epoch") or 0.0) <= 1.0]
        differences = [
            float(row["lengths/chosen"]) - float(row["lengths/rejected"])
            for row in rows
            if is_number(row.get("lengths/chosen")) and is_number(row.get("lengths/rejected"))
        ]
        return is_not_zero(differences)

    def log_prob_change(self, side: str) -> float | None:
        """The change of the chosen or rejected responses' log-prob since the start, in nats.

        With a reference that is the start it is the log-ratio, on held-out rows where there are
        any. Else it is the change between evaluations of the same rows, or between the first and
        the last steps, if these differ by more than noise. Rewards are beta times the log-ratios,
        unless an f-divergence transforms them.
        """
        ratio = self._ratio_change(f"logratios/{side}")
        if ratio is not None:
            return ratio
        beta = self.settings.get("beta")
        is_linear = self.settings.get("f_divergence_type", "reverse_kl") == "reverse_kl"
        if self._has_reference and is_linear and beta:
            reward = self._ratio_change(f"rewards/{side}")
            if reward is not None:
                return reward / float(beta)
        series = self.held_out_series(f"logps/{side}")
        if len(series) > 1:
            return series[-1][1] - series[0][1]
        return self._significant_change(f"logps/{side}")

    def margin_change(self) -> float:
        """The change of the margin between chosen and rejected responses; 0 where unknown."""
        series = self.held_out_series("rewards/margins")
        if series and self._has_reference:
            return series[-1][1]
        if len(series) > 1:
            return series[-1][1] - series[0][1]
        return self.history.change("rewards/margins") or 0.0

    def held_out_accuracy_fell(self) -> bool:
        """Whether the held-out accuracy fell since the first evaluation by more than chance.

        The limit is two standard errors of a share of one half, 2·√(.25/n); both evaluations have
        the same rows, so that chance alone does less.
        """
        series = self.held_out_series("rewards/accuracies")
        if len(series) < 2 or not self.held_out:
            return False
        return series[0][1] - series[-1][1] > 1.0 / math.sqrt(self.held_out)

    @property
    def _has_reference(self) -> bool:
        return "ref_model" in self.settings

    def _ratio_change(self, name: str) -> float | None:
        """The change of a metric that is 0 at the start if the reference is the start."""
        series = self.held_out_series(name)
        if series and self._has_reference and not self.settings.get("ref_model"):
            return series[-1][1]
        if len(series) > 1:
            return series[-1][1] - series[0][1]
        return self._significant_change(name)

    def _significant_change(self, name: str) -> float | None:
        """The change from the first to the last tenth of the steps; 0.0 where it may be noise."""
        change = self.history.change(name)
        return change if change is None or self.history.moved(name) else 0.0


def is_not_zero(values: Sequence[float]) -> bool:
    """Whether the mean of independent values is more than SIGNIFICANT standard errors from 0."""
    count = len(values)
    if count < 2:
        return False
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return abs(mean) > SIGNIFICANT * math.sqrt(variance / count)
