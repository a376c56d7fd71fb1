"""Coefficients of agreement: published values, two independent implementations, definitions."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.agreement.alpha import Level, krippendorff_alpha
from accord.measure.agreement.kappas import cohen_from_codes, cohen_kappa, fleiss_kappa, gwet_ac1
from accord.measure.agreement.ratings import code_ratings, find_patterns
from accord.measure.agreement.summary import RatedItem, agreement_by_criterion, measure_agreement
from tests.measure.agreement_data import (
    FLEISS,
    KRIPPENDORFF,
    code_counts,
    code_table,
    draw,
    noisy_ratings,
    with_gaps,
)

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval", "ratio")


@pytest.mark.parametrize(
    ("level", "expected"),
    [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)],
)
def test_krippendorffs_own_example(level: Level, expected: float) -> None:
    # Krippendorff 2011, section C: the values that he prints.
    result = krippendorff_alpha(code_table(KRIPPENDORFF), level)
    assert result.value == pytest.approx(expected, abs=0.0005)
    assert result.items == 11  # the twelfth unit has one rating, and is compared with nothing
    assert result.ratings == 40


def test_fleiss_example_of_ten_subjects() -> None:
    ratings = code_counts(FLEISS)
    assert fleiss_kappa(ratings).value == pytest.approx(0.2099, abs=0.00005)
    assert gwet_ac1(ratings).value == pytest.approx(0.2256, abs=0.00005)


@pytest.mark.parametrize(
    ("name", "fleiss", "ac1"), [("llama2orig", 0.92925, 0.95251), ("llama2new", 0.92576, 0.94100)]
)
def test_the_annotators_of_xstest(shared_data: Path, name: str, fleiss: float, ac1: float) -> None:
    path = shared_data / "xstest" / f"completions_{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [(row["id"], a, row[f"annotation_{a}"]) for row in rows for a in (1, 2)]
    ratings = code_ratings(*zip(*columns, strict=True))
    assert fleiss_kappa(ratings).value == pytest.approx(fleiss, abs=0.000005)
    assert gwet_ac1(ratings).value == pytest.approx(ac1, abs=0.000005)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("nominal", 0.41140561309071066),
        ("ordinal", 0.36940983461948207),
        ("interval", 0.36615901931018735),
        ("ratio", 0.33461899800279804),
    ],
)
def test_alpha_equals_the_package_krippendorff(level: Level, expected: float) -> None:
    # krippendorff 0.9.0: alpha(reliability_data=..., level_of_measurement=level) on these ratings.
    ratings = code_table(with_gaps(noisy_ratings()))
    assert krippendorff_alpha(ratings, level).value == pytest.approx(expected, abs=1e-12)


def test_kappas_equal_statsmodels_and_scikit_learn() -> None:
    rows = noisy_ratings()
    table = code_table([list(column) for column in zip(*rows, strict=True)])
    # statsmodels 0.15.0: fleiss_kappa(aggregate_raters(rows)[0]).
    assert fleiss_kappa(table).value == pytest.approx(0.39739626420516405, abs=1e-12)
    # scikit-learn's cohen_kappa_score and statsmodels' cohens_kappa of the first two raters.
    assert cohen_kappa(table, (0, 1)).value == pytest.approx(0.39245810055865926, abs=1e-12)


def _distance(level: Level, c: float, k: float, counts: Counter[float]) -> float:
    if level == "nominal":
        return float(c != k)
    if level == "interval":
        return (c - k) ** 2
    if level == "ratio":
        return ((c - k) / (c + k)) ** 2
    low, high = min(c, k), max(c, k)
    between = sum(n for value, n in counts.items() if low <= value <= high)
    return (between - (counts[c] + counts[k]) / 2) ** 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_alpha_equals_its_definition_over_all_pairs(level: Level, seed: int) -> None:
    # Krippendorff 2011: every ordered pair within a unit, weighted 1/(m_u - 1), against every
    # ordered pair of all pairable ratings.
    values, gap = draw(75, seed, 4), draw(75, seed + 50, 3)
    units = [[float(values[5 * u + r] + 1) for r in range(5) if gap[5 * u + r]] for u in range(15)]
    pairable = [unit for unit in units if len(unit) > 1]
    every = [value for unit in pairable for value in unit]
    counts = Counter(every)
    within = sum(
        _distance(level, a, b, counts) / (len(unit) - 1)
        for unit in pairable
        for a, b in itertools.permutations(unit, 2)
    )
    between = sum(_distance(level, a, b, counts) for a, b in itertools.permutations(every, 2))
    expected = 1 - (within / len(every)) / (between / (len(every) * (len(every) - 1)))
    cells = [(u, r, v) for u, unit in enumerate(units) for r, v in enumerate(unit)]
    ratings = code_ratings(*zip(*cells, strict=True))
    assert krippendorff_alpha(ratings, level).value == pytest.approx(expected, abs=1e-12)


def test_patterns_are_the_items_whatever_the_number_of_values() -> None:
    # 10 values of 3 ratings fit into one key; 100 values do not, and each item is a pattern.
    for below in (10, 100):
        values = draw(600, 3, below)
        ratings = code_ratings([i // 3 for i in range(600)], [i % 3 for i in range(600)], values)
        patterns = find_patterns(ratings)
        assert patterns.frequency.sum() == 200
        rows = patterns.counts.toarray()[patterns.of_item]
        for item in range(200):
            counted = Counter(ratings.value[3 * item : 3 * item + 3].tolist())
            assert {v: int(n) for v, n in enumerate(rows[item]) if n} == counted


def test_missing_ratings_are_left_out_and_counted() -> None:
    ratings = code_ratings(["x", "x", "y", "y"], [1, 2, 1, 2], ["a", None, "b", "b"])
    assert (len(ratings), ratings.missing) == (3, 1)
    numbers = code_ratings(["x", "x"], [1, 2], np.array([1.0, math.nan]))
    assert (len(numbers), numbers.missing) == (1, 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (fleiss_kappa, "every rating has the same value"),
        (krippendorff_alpha, "every rating has the same value"),
        (cohen_kappa, "every rating has the same value"),
        (gwet_ac1, "no other category was given"),
    ],
)
def test_one_value_only_is_not_defined(function: object, reason: str) -> None:
    result = function(code_counts([[2, 0]] * 30))  # type: ignore[operator]
    assert result.value is None
    assert reason in result.undefined
    assert result.low is None
    assert result.high is None
    assert "not defined" in str(result)


def test_ac1_of_one_value_is_one_where_others_were_possible() -> None:
    # p_a = 1 and p_e = 0 with the categories given (Gwet 2008, eq. 8). 0 of 30 items disagree, so
    # the bound is 1 - (1 - 0.025^(1/30)) = 0.025^(1/30) = 0.8843.
    ratings = code_ratings([i // 2 for i in range(60)], [i % 2 for i in range(60)], ["a"] * 60)
    ratings = code_ratings(
        ratings.item.tolist(), ratings.rater.tolist(), ["a"] * 60, categories=["a", "b"]
    )
    result = gwet_ac1(ratings)
    assert (result.value, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(0.025 ** (1 / 30), abs=1e-12)


def test_full_agreement_has_the_exact_bound_and_not_an_interval_without_width() -> None:
    # 20 items a and 20 items b: p_e = 1/2, so low = 1 - (1 - 0.025^(1/40))/(1/2).
    ratings = code_counts([[2, 0]] * 20 + [[0, 2]] * 20)
    result = fleiss_kappa(ratings)
    assert result.value == 1.0
    assert result.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 40)), abs=1e-12)
    assert "0 in 40" in result.note


def test_what_a_coefficient_can_not_compare_is_said() -> None:
    gaps = code_table(KRIPPENDORFF)
    assert "from 1 to 4 ratings" in fleiss_kappa(gaps).undefined
    assert "there are 4 raters" in cohen_kappa(gaps).undefined
    alone = code_ratings([1, 2, 3], ["x", "x", "x"], [1, 2, 1])
    for function in (fleiss_kappa, gwet_ac1, krippendorff_alpha):
        assert function(alone).undefined == "no item has two ratings"
    apart = code_ratings([1, 2], ["x", "y"], [1, 2])
    assert cohen_kappa(apart).undefined == "no item is rated by both"
    nothing = code_ratings([], [], [])
    assert measure_agreement(nothing).coefficients[2].undefined == "no item has two ratings"


def test_wrong_ratings_are_refused() -> None:
    with pytest.raises(DataError, match="'ada' rates the item 7 more than once"):
        code_ratings([7, 7], ["ada", "ada"], [1, 2])
    with pytest.raises(DataError, match="2 items, 1 raters and 2 values"):
        code_ratings([1, 2], ["ada"], [1, 2])
    with pytest.raises(DataError, match="no common order"):
        code_ratings([1, 2], ["ada", "ada"], [1, "good"])
    with pytest.raises(DataError, match="'c' is none of them"):
        code_ratings([1], ["ada"], ["c"], categories=["a", "b"])
    words = code_ratings([1, 1], ["ada", "bo"], ["good", "bad"])
    with pytest.raises(DataError, match="needs numbers, and one of the ratings is 'bad'"):
        krippendorff_alpha(words, "interval")
    below = code_ratings([1, 1], ["ada", "bo"], [-1, 1])
    with pytest.raises(DataError, match="no negative values, and -1"):
        krippendorff_alpha(below, "ratio")


def test_the_bootstrap_draws_items() -> None:
    # Two raters, half a and half b, who agree on 80% of 500 items: kappa = 0.6 with the standard
    # error sqrt(p_o(1 - p_o)/N)/(1 - p_e) = sqrt(.16/500)/.5 = .0358 (Fleiss, Cohen, Everitt 1969,
    # to first order, with the margins' own variance of order 1/N² here). 1.96 of it is .0701.
    rows = [[2, 0]] * 200 + [[0, 2]] * 200 + [[1, 1]] * 100
    result = fleiss_kappa(code_counts(rows), rounds=4000)
    assert result.value == pytest.approx(0.6, abs=1e-12)
    assert result.low == pytest.approx(0.6 - 0.0701, abs=0.006)
    assert result.high == pytest.approx(0.6 + 0.0701, abs=0.006)
    assert result == fleiss_kappa(code_counts(rows), rounds=4000)
    assert result.low != fleiss_kappa(code_counts(rows), rounds=4000, seed=1).low


def test_items_of_one_prompt_are_one_draw() -> None:
    # Each item ten times over is as much information as each item alone: the same interval up to
    # chance, where taking the copies as independent would narrow it by sqrt(10) = 3.2.
    first, second = np.array(draw(80, 21, 2)), np.array(draw(80, 22, 2))
    alone = cohen_from_codes(first, second, 2, rounds=4000)
    copies = np.repeat(np.arange(80), 10)
    clustered = cohen_from_codes(first[copies], second[copies], 2, clusters=copies, rounds=4000)
    assert clustered.value == pytest.approx(alone.value)
    widths = [c.high - c.low for c in (alone, clustered)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.08)
    assert clustered.items == 800


def test_samples_without_a_coefficient_leave_the_interval_open() -> None:
    # One item in 8 has the second value: a sample misses it with probability (7/8)^8 = 34%.
    result = krippendorff_alpha(code_counts([[2, 0]] * 7 + [[1, 1]]))
    assert result.value is not None
    assert result.low is None
    assert result.high is None
    assert "bootstrap samples" in result.note


def test_the_interval_covers_the_true_kappa() -> None:
    # Raters who give the true value (a fair coin) with probability .9 agree with p_o = .82, so
    # kappa is .64. The share of 200 intervals that cover it is .95 up to 3 standard errors (.046).
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        truth = rng.integers(0, 2, 120)
        first, second = (np.where(rng.random(120) < 0.9, truth, 1 - truth) for _ in range(2))
        result = cohen_from_codes(first, second, 2, rounds=400, seed=seed)
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.64 <= result.high
    assert 0.904 <= covered / 200 <= 0.996


def test_each_criterion_has_its_own_agreement() -> None:
    rows = [
        RatedItem(item, rater, value, criterion)
        for item in range(40)
        for criterion, values in {"helpful": (item % 2, item % 2), "safe": (0, item % 2)}.items()
        for rater, value in zip(("ada", "bo"), values, strict=True)
    ]
    result = agreement_by_criterion(rows)
    assert list(result) == ["helpful", "safe"]
    helpful, safe = (a.coefficients[0] for a in result.values())
    assert (helpful.value, safe.value) == (1.0, 0.0)  # bo's half by chance agrees with ada's zeros
    as_json = result["safe"].to_json()
    assert as_json["items"] == 40
    assert as_json["coefficients"][0]["name"] == "Cohen's kappa"


def test_each_two_of_three_raters_are_compared() -> None:
    table = code_table([[0, 1] * 10, [0, 1] * 10, [1, 0] * 10])
    pairs = measure_agreement(table).pairs
    assert {names: round(c.value or 0, 6) for names, c in pairs.items()} == {
        (0, 1): 1.0,
        (0, 2): -1.0,
        (1, 2): -1.0,
    }
