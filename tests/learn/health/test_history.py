"""The noise of a metric, and whether it rose."""

from __future__ import annotations

import random

import pytest

from accord.learn.health.history import MetricHistory


def test_noise_is_the_rows_deviation_without_their_trend() -> None:
    rng = random.Random(1)
    rows = [{"step": i, "x": 0.05 * i + rng.gauss(0, 2.0)} for i in range(1, 2001)]
    history = MetricHistory(rows)
    assert history.noise("x", 1) == pytest.approx(2.0, rel=0.1)
    assert history.noise("x", 100) == pytest.approx(0.2, rel=0.1)
    assert history.rose("x")
    assert not MetricHistory([{**row, "x": -row["x"]} for row in rows]).rose("x")
    flat = MetricHistory([{"step": i, "x": rng.gauss(0, 2.0)} for i in range(1, 2001)])
    assert not flat.rose("x")
    assert history.noise("y", 1) == 0.0
    assert not history.rose("y")
