"""Accuracy by subset and calibration: closed forms, drawn data, and a solver of scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from accord.measure.audits.probes import CHOSEN, REJECTED, ProbeData, ProbePair
from accord.measure.audits.probes_calibration import (
    accuracy_audits,
    calibrate,
    calibration_audit,
    logistic_slope,
    subsets,
    temperature_scaled,
)
from accord.measure.statistics import proportion_interval


def drawn_margins(count: int, scale: float, seed: int = 0) -> np.ndarray:
    """Margins of pairs whose outcomes have the probability σ(margin / scale)."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 2 * scale, count)
    wins = rng.random(count) < 1 / (1 + np.exp(-margins / scale))
    return np.where(wins, margins, -margins)


def test_calibration_by_hand() -> None:
    # σ(±ln 3) = ¾: of four pairs that are sure by ¾, three are right. Nothing is off.
    margins = np.array([1, 1, 1, -1]) * math.log(3)
    measured = calibrate(margins, range(4))
    assert measured.overconfidence.mean == pytest.approx(0)
    assert measured.brier == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert measured.log_loss == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    # Σ m σ(−sm) = 0 at 3·σ(−sm) = σ(sm), so at s = 1.
    assert measured.slope is not None
    assert measured.slope.mean == pytest.approx(1)
    # Twice the margins: sure by .9, and right in ¾.
    twice = calibrate(2 * margins, range(4))
    assert twice.overconfidence.mean == pytest.approx(0.9 - 0.75)
    assert twice.slope is not None
    assert twice.slope.mean == pytest.approx(0.5)


def test_bins_have_equally_many_pairs_and_give_the_error() -> None:
    margins = np.concatenate([np.full(50, 0.1), np.full(50, 3.0)])
    measured = calibrate(margins, range(100))
    assert [count for _, _, count in measured.bins] == [10] * 10
    low, high = (1 / (1 + math.exp(-m)) for m in (0.1, 3.0))
    # All are right: each bin's gap is 1 less its confidence.
    assert measured.ece == pytest.approx(0.5 * (1 - low) + 0.5 * (1 - high))
    assert measured.slope is None  # separated


def test_chance_alone_gives_a_calibrated_reward_its_error() -> None:
    measured = calibrate(drawn_margins(300, 1.0), range(300))
    assert 0.5 < measured.ece / measured.ece_by_chance < 2
    over = calibrate(drawn_margins(300, 4.0), range(300))
    assert over.ece > 2 * over.ece_by_chance


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_slope_is_the_likeliest(scale: float) -> None:
    margins = drawn_margins(2000, scale)
    slope = logistic_slope(margins, range(2000))
    assert slope is not None
    found = optimize.minimize_scalar(
        lambda s: np.logaddexp(0, -s * margins).sum(), bounds=(0, 20), method="bounded"
    )
    assert slope.mean == pytest.approx(found.x, abs=1e-4)
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < 1 / scale < slope.high
    # Its error is that of the likelihood: 1/√(information).
    p = 1 / (1 + np.exp(-slope.mean * margins))
    error = 1 / math.sqrt(np.sum(margins**2 * p * (1 - p)))
    assert (slope.high - slope.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_a_slope_below_zero_and_none() -> None:
    against = logistic_slope(-drawn_margins(500, 1.0), range(500))
    assert against is not None
    assert against.mean < -0.5
    assert logistic_slope(np.array([1.0, 0.0]), range(2)) is None


def test_repeated_pairs_of_a_prompt_do_not_narrow_the_slope() -> None:
    margins = drawn_margins(200, 1.0)
    once = logistic_slope(margins, range(200))
    thrice = logistic_slope(np.repeat(margins, 3), [i // 3 for i in range(600)])
    assert once is not None
    assert thrice is not None
    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.low == pytest.approx(once.low)


def test_a_temperature_is_fitted_to_the_other_half() -> None:
    margins = drawn_margins(3000, 7.0)
    result = temperature_scaled(margins, range(3000))
    assert result is not None
    scaled, temperature = result
    assert temperature == pytest.approx(7, rel=0.15)
    assert calibrate(scaled, range(3000)).overconfidence.mean == pytest.approx(0, abs=0.02)
    halves = [logistic_slope(margins[k::2], range(1500)) for k in (0, 1)]
    assert halves[1] is not None
    assert scaled[0] == pytest.approx(margins[0] * halves[1].mean)
    assert temperature_scaled(-margins, range(3000)) is None
    assert temperature_scaled(np.abs(margins), range(3000)) is None


def data_of(margins: np.ndarray, chosen_words: int = 4, rejected_words: int = 4) -> ProbeData:
    texts = {CHOSEN: "w " * chosen_words, REJECTED: "w " * rejected_words}
    pairs = [
        ProbePair(f"p{i}", texts, i, category="odd" if i % 2 else "even")
        for i in range(len(margins))
    ]
    return ProbeData(pairs, {CHOSEN: margins, REJECTED: np.zeros(len(margins))})


def test_accuracy_and_its_subsets() -> None:
    margins = np.array([1.0, 1.0, -1.0, 1.0, 0.0, float("nan")])
    audits = {a.name: a for a in accuracy_audits(data_of(margins))}
    assert audits["accuracy"].value == proportion_interval(3.5, 5)
    assert "1 ties counting half" in audits["accuracy"].finding
    assert audits["shorter_chosen"].count == 0
    rows = {row.name: row for row in subsets(data_of(margins), margins)}
    assert rows["even"].accuracy == proportion_interval(1.5, 3)
    assert rows["odd"].count == 2
    assert rows["about as long"].count == 5
    assert rows["even"].verdict == "undecided"
    assert rows["odd"].overconfidence is not None
    # Both are right, and sure by σ(1).
    assert rows["odd"].overconfidence.mean == pytest.approx(1 / (1 + math.exp(-1)) - 1)


def test_a_reward_of_length_fails_where_people_preferred_the_shorter() -> None:
    wrong = np.full(30, -1.0)
    for words, counted in (((4, 6), 30), ((4, 5), 0), ((6, 4), 0)):
        audits = {a.name: a for a in accuracy_audits(data_of(wrong, *words))}
        assert audits["shorter_chosen"].count == counted, words
    audits = {a.name: a for a in accuracy_audits(data_of(wrong, 4, 6))}
    assert audits["shorter_chosen"].verdict == "fail"
    assert audits["longer_chosen"].count == 0
    audits = {a.name: a for a in accuracy_audits(data_of(wrong, 6, 4))}
    assert audits["longer_chosen"].verdict == "fail"
    assert "more words, it agrees in 0%" in audits["longer_chosen"].finding
    assert subsets(data_of(wrong, 6, 4))[0].name == "chosen is longer"


def test_overconfident_margins_fail() -> None:
    for scale, verdict in ((1.0, "pass"), (8.0, "fail"), (0.3, "pass")):
        margins = drawn_margins(1000, scale)
        audit = calibration_audit(data_of(margins), margins)
        assert audit.verdict == verdict, scale
    audit = calibration_audit(data_of(drawn_margins(100, 8.0)), drawn_margins(100, 8.0))
    assert "points of accuracy more than it has" in audit.finding
