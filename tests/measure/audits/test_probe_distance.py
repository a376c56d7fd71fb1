"""The distance from training answers: Ledoit and Wolf's shrinkage term by term, and quantiles."""

from __future__ import annotations

import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.audits.audit import Audit
from accord.measure.audits.probes_distance import (
    conformal_quantile,
    distance_audit,
    fit_spread,
    ledoit_wolf,
)


@pytest.mark.parametrize(("count", "width"), [(50, 5), (30, 80), (200, 16)])
def test_shrinkage_by_its_definition(count: int, width: int) -> None:
    rng = np.random.default_rng(count)
    states = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + 3
    # Ledoit and Wolf (2004), with the norm ‖A‖² = tr(AAᵀ)/p, one state after another.
    centred = states - states.mean(0)
    sample = sum(np.outer(x, x) for x in centred) / count
    scale = np.trace(sample) / width
    target = scale * np.eye(width)
    d2 = ((sample - target) ** 2).sum() / width
    b2 = min(sum(((np.outer(x, x) - sample) ** 2).sum() / width for x in centred) / count**2, d2)
    covariance, shrinkage = ledoit_wolf(states)
    assert shrinkage == pytest.approx(b2 / d2)
    assert np.allclose(covariance, b2 / d2 * target + (1 - b2 / d2) * sample)
    # The distance against an inverse.
    spread = fit_spread(states)
    inverse = np.linalg.inv(covariance)
    expected = [np.sqrt(x @ inverse @ x) for x in centred]
    assert np.allclose(spread.distances(states), expected)


def test_known_value() -> None:
    # scikit-learn 1.9: LedoitWolf().fit(x).shrinkage_ for this x.
    rng = np.random.default_rng(3)
    states = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 3)) + 3
    assert ledoit_wolf(states)[1] == pytest.approx(0.33593514172761035)


def test_states_without_a_spread_are_refused() -> None:
    with pytest.raises(DataError, match="no spread"):
        fit_spread(np.ones((50, 4)))


def test_quantiles_cover_new_values() -> None:
    # Of 19 values, the largest is the 95% quantile: a 20th exceeds it with probability 1/20.
    assert conformal_quantile(np.arange(1.0, 20.0), 0.95) == 19
    assert conformal_quantile(np.arange(1.0, 19.0), 0.95) == np.inf
    assert conformal_quantile(np.arange(1.0, 100.0), 0.95) == 95
    assert conformal_quantile(np.arange(1.0, 100.0), 0.99) == 99


def audit_of(states: np.ndarray, *, prompts: int, left_out: int = 300) -> Audit:
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=(500, 8)), rng.normal(size=(left_out, 8))
    spread = fit_spread(train)
    names = [f"p{i % prompts}" for i in range(len(states))]
    texts = [f"r{i}" for i in range(len(states))]
    return distance_audit(
        spread, spread.distances(held_out), spread.distances(states), names, texts, fitted=500
    )


def test_responses_like_the_training_data_pass_and_others_fail() -> None:
    rng = np.random.default_rng(1)
    near = audit_of(rng.normal(size=(400, 8)), prompts=400)
    assert near.verdict == "pass"
    assert near.value.mean == pytest.approx(0.05, abs=0.03)
    far = audit_of(rng.normal(size=(400, 8)) + 3, prompts=400)
    assert far.verdict == "fail"
    assert far.value.mean > 0.9
    assert far.finding.startswith(f"{round(400 * far.value.mean)} of 400 responses")
    assert far.samples[0].scores["distance"] > far.samples[1].scores["distance"]
    assert far.details["beyond_99"]["mean"] <= far.value.mean
    assert "Beyond 99% of them: " in far.finding
    # Of 60 answers no 99% quantile is known, so nothing is said of it.
    small = audit_of(rng.normal(size=(400, 8)) + 3, prompts=400, left_out=60)
    assert "Too few answers were left out (60)" in small.finding
    assert small.details["beyond_99"] is None
    assert small.details["quantile_99"] is None
    few = audit_of(rng.normal(size=(400, 8)) + 3, prompts=2)
    assert few.value.low is not None
    assert far.value.low is not None
    assert few.value.low < far.value.low
