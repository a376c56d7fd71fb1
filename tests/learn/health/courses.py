"""Made-up metrics of an offline run, and the remarks on them."""

from __future__ import annotations

from typing import Any

from accord.learn.health.rules import training_health

HEALTHY = {
    "loss": (0.69, 0.4),
    "rewards__accuracies": (0.5, 0.8),
    "rewards__margins": (0.0, 1.2),
    "rewards__chosen": (0.0, 0.4),
    "logps__chosen": (-50.0, -48.0),
    "logps__rejected": (-50.0, -60.0),
    "lengths__chosen": (30.0, 30.0),
    "lengths__rejected": (30.0, 30.0),
}
"""The first and the last value of each metric; `__` is the slash of its name."""


def linear_rows(steps: int = 20, **ends: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows in which each metric moves from its first value to its last in a straight line."""
    return [
        {"step": i + 1}
        | {name.replace("__", "/"): a + (b - a) * i / (steps - 1) for name, (a, b) in ends.items()}
        for i in range(steps)
    ]


def remark_levels(
    rows: list[dict[str, Any]],
    settings: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> dict[str, str]:
    """The level of each remark, by its subject."""
    return {r.about: r.level for r in training_health(rows, settings or {}, data or {})}
