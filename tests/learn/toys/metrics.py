"""Metrics of two runs, compared."""

from __future__ import annotations

from collections.abc import Mapping


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's metrics but for the one that a clock measures."""
    return {name: value for name, value in metrics.items() if name != "seconds"}
