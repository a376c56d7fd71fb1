"""Prediction-powered win rates: a reference implementation's numbers, limits and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.agreement.prediction_powered import prediction_powered_mean
from tests.measure.agreement_data import draw

JUDGE = [v / 4 for v in draw(400, 31, 5)]
LABELLED = [v / 4 for v in draw(60, 32, 5)]
PEOPLE = [
    v if u < 6 else w / 2
    for v, u, w in zip(LABELLED, draw(60, 33, 10), draw(60, 34, 3), strict=True)
]

PLAIN = (0.516875, 0.42303359, 0.61071641)
TUNED = (0.51265512, 0.43084152, 0.59446873)


def test_it_equals_ppi_py() -> None:
    # ppi-python 0.2.3: ppi_mean_ci(PEOPLE, LABELLED, JUDGE, alpha=.05, lam=1) and with its own lam.
    # Its variances divide by n, these by n − 1.
    plain = prediction_powered_mean(JUDGE, LABELLED, PEOPLE)
    assert (plain.mean, plain.low, plain.high) == pytest.approx(PLAIN, abs=1e-3)
    tuned = prediction_powered_mean(JUDGE, LABELLED, PEOPLE, weight=None)
    assert (tuned.mean, tuned.low, tuned.high) == pytest.approx(TUNED, abs=1e-3)


def test_without_the_judge_it_is_peoples_mean() -> None:
    # λ = 0: the mean of the labelled rows with its normal interval.
    result = prediction_powered_mean(JUDGE, LABELLED, PEOPLE, weight=0.0)
    error = float(np.std(PEOPLE, ddof=1)) / math.sqrt(60)
    assert result.mean == pytest.approx(np.mean(PEOPLE))
    assert result.high == pytest.approx(np.mean(PEOPLE) + 1.959964 * error, abs=1e-6)


def test_a_judge_without_information_gets_no_weight() -> None:
    constant = prediction_powered_mean([0.5] * 100, [0.5] * 60, PEOPLE, weight=None)
    people = prediction_powered_mean(JUDGE, LABELLED, PEOPLE, weight=0.0)
    assert constant == people


def test_a_judge_that_never_errs_still_leaves_the_doubt_of_n_rows() -> None:
    # 20 rows without an error bound its share by 1 − .025^(1/20) = .168.
    y = [1.0, 0.0] * 10
    result = prediction_powered_mean([1.0, 0.0] * 5000, y, y)
    assert result.mean == pytest.approx(0.5)
    sampling = 1.959964 * 0.5 / math.sqrt(10_000)
    assert result.high == pytest.approx(0.5 + sampling + 1 - 0.025 ** (1 / 20), abs=1e-4)


@pytest.mark.parametrize("weight", [1.0, None])
def test_the_interval_covers_peoples_rate_whatever_the_judge_gets_wrong(
    weight: float | None,
) -> None:
    # People prefer a in 40% of rows. The judge agrees with 85% of these, and calls 35% of the
    # others wins as well: its own rate is .4·.85 + .6·.35 = .55. Of 600 intervals from 120
    # labelled rows, 95% cover .40, up to 3 standard errors (.027).
    rng = np.random.default_rng(7)
    covered, naive, widths = 0, 0, []
    for _ in range(600):
        y = rng.random(1620) < 0.4
        f = np.where(y, rng.random(1620) < 0.85, rng.random(1620) < 0.35)
        result = prediction_powered_mean(f[120:], f[:120], y[:120], weight=weight)
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.4 <= result.high
        widths.append(result.high - result.low)
        naive += abs(f[120:].mean() - 0.4) < 1.96 * math.sqrt(0.55 * 0.45 / 1500)
    assert covered / 600 == pytest.approx(0.95, abs=0.027)
    assert naive == 0
    if weight is None:  # narrower than people's rows alone
        assert np.mean(widths) < 2 * 1.96 * math.sqrt(0.4 * 0.6 / 120)


def test_rows_of_one_prompt_count_as_one() -> None:
    alone = prediction_powered_mean(JUDGE, LABELLED, PEOPLE)
    n, copies = np.repeat(np.arange(60), 4), np.repeat(np.arange(400), 4)
    clustered = prediction_powered_mean(
        np.array(JUDGE)[copies],
        np.array(LABELLED)[n],
        np.array(PEOPLE)[n],
        prompts=copies,
        labelled_prompts=n,
    )
    assert clustered.low == pytest.approx(alone.low)
    assert clustered.high == pytest.approx(alone.high)


def test_what_can_not_be_corrected_is_refused() -> None:
    with pytest.raises(DataError, match="People judged 1 rows"):
        prediction_powered_mean(JUDGE, [1.0], [1.0])
    with pytest.raises(DataError, match="0 rows have only the judge's score"):
        prediction_powered_mean([], LABELLED, PEOPLE)
    with pytest.raises(DataError, match="scores from 0 to 1"):
        prediction_powered_mean([2.0], LABELLED, PEOPLE)
