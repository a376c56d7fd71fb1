"""Win rates by prompt, exact paired tests, and rates at equal length."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from accord.measure.ratings.length_control import fit_logistic, length_controlled_rates
from accord.measure.ratings.paired import (
    clustered_share,
    holm,
    paired_comparisons,
    permutation_test,
    sign_test,
)
from accord.measure.ratings.position import position_effect
from accord.measure.ratings.table import BattleTable, battle_table
from accord.measure.statistics import clustered_proportion


def test_the_sign_test_is_the_exact_binomial_one() -> None:
    for won, lost in ((0, 0), (5, 0), (3, 9), (10, 10), (40, 25)):
        expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
        assert sign_test(won, lost) == pytest.approx(expected)


def test_the_permutation_test_equals_all_permutations() -> None:
    for differences in ([0.5, 0.5, -0.5, 1.5], [1.0, -0.5, 0.0, 2.0, 1.0], [0.5] * 6, [0.0]):
        d = np.array(differences)
        sums = [abs(float((np.array(s) * d).sum())) for s in product((1, -1), repeat=len(d))]
        expected = np.mean([s >= abs(d.sum()) - 1e-9 for s in sums])
        assert permutation_test(d) == pytest.approx(expected)
    # Beyond the exact sums the normal one: 21,000 wins of half a point and 20,500 losses.
    many = np.repeat([0.5, -0.5], [21_000, 20_500])
    assert permutation_test(many) == pytest.approx(stats.binomtest(21_000, 41_500).pvalue, abs=3e-4)


def test_holm() -> None:
    # Sorted .01 .03 .04: ·3, ·2, ·1 give .03 .06 .04, and none is below an earlier one.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_share_by_prompt_is_that_of_the_single_values() -> None:
    rng = np.random.default_rng(0)
    for values in (
        [rng.integers(0, 2, n) for n in (3, 1, 4, 2, 5, 3)],
        [[1.0], [0.5], [0.0], [1.0]],
        [[1, 1], [1]],
    ):
        expected = clustered_proportion(values, confidence=0.9)
        sums, counts = (np.array([f(v) for v in values], float) for f in (np.sum, np.size))
        found = clustered_share(sums, counts, 0.9)
        assert (found.mean, found.low, found.high) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )


def test_a_pair_by_prompt_and_by_side() -> None:
    table = battle_table(
        ["x", "y", "x", "y", "x"],
        ["y", "x", "y", "x", "z"],
        ["a", "a", "tie", "b", "a"],
        prompts=[0, 0, 1, 2, 2],
    )
    first, second = paired_comparisons(table)
    assert (first.a, first.b, first.battles, first.prompts) == ("x", "y", 4, 3)
    assert first.rate.mean == 2.5 / 4
    assert (first.rate_first.mean, first.rate_second.mean) == (0.75, 0.5)
    assert (first.prompts_won, first.prompts_lost) == (1, 0)  # prompt 0 is even, 1 a tie
    assert first.sign_p == first.permutation_p == first.holm_p == 1.0
    assert (second.a, second.b) == ("x", "z")
    assert second.to_json()["rate_second"] is None  # never was x the second


def length_gamer(seed: int, battles: int) -> BattleTable:
    """Of two equal models one writes longer answers, and the judge likes length."""
    rng = np.random.default_rng(seed)
    longer = rng.normal(200, 250, battles)
    won = rng.random(battles) < 1 / (1 + np.exp(-2.0 * np.tanh(longer / longer.std())))
    swap = rng.random(battles) < 0.5
    lengths = np.stack([500 + longer, np.full(battles, 500.0)], axis=1)
    table = battle_table(
        np.where(swap, "base", "long"),
        np.where(swap, "long", "base"),
        np.where(won != swap, "a", "b"),
        prompts=np.arange(battles) // 2,
    )
    lengths[swap] = lengths[swap][:, ::-1]
    return BattleTable(table.names, table.a, table.b, table.outcome, table.prompt, lengths=lengths)


def test_a_model_that_wins_by_length_alone_comes_to_a_half() -> None:
    (row,) = length_controlled_rates(length_gamer(0, 3000), "base")
    assert row.model == "long"
    assert row.raw > 0.6
    assert row.rate.low is not None
    assert row.rate.high is not None
    assert row.rate.low < 0.5 < row.rate.high
    assert row.rate.high - row.rate.low < 0.1
    assert row.length_effect == pytest.approx(2.0, abs=0.25)
    (other,) = length_controlled_rates(length_gamer(0, 3000), "long")
    assert other.rate.mean == pytest.approx(1 - row.rate.mean)


def test_the_interval_of_the_rate_at_equal_length_covers_a_half() -> None:
    rates = [length_controlled_rates(length_gamer(seed, 200), "base")[0].rate for seed in range(99)]
    covered = sum(rate.low < 0.5 < rate.high for rate in rates)  # type: ignore[operator]
    assert 88 <= covered <= 98  # 95% of 99: between these with a probability of 99%


def test_a_model_that_won_all_is_no_case_for_length() -> None:
    table = battle_table(["x"] * 4, ["y"] * 4, ["a"] * 4)
    lengths = np.ones((4, 2)) * [9.0, 3.0]
    table = BattleTable(table.names, table.a, table.b, table.outcome, lengths=lengths)
    (row,) = length_controlled_rates(table, "y")
    assert (row.raw, row.rate.mean, row.rate.high) == (1, 1, 1)
    assert row.rate.low == pytest.approx(0.025 ** (1 / 4))  # the exact interval of 4 of 4
    assert "won every battle" in row.note


def test_the_logistic_regression_is_at_its_maximum() -> None:
    rng = np.random.default_rng(1)
    x = np.stack([np.ones(80), rng.normal(size=80), rng.normal(size=80)], axis=1)
    y = rng.choice([0, 0.5, 1], 80)
    weights, _ = fit_logistic(x, y, np.arange(80))
    residual = y - 1 / (1 + np.exp(-x @ weights))
    assert x.T @ residual == pytest.approx(np.array([0, 0.5, 0.5]) * weights, abs=1e-8)


def test_the_prompts_difficulty_is_taken_from_the_other_models() -> None:
    """On hard prompts both models lose: the difficulty explains it, and the fit is better."""
    rng = np.random.default_rng(2)
    hard = rng.random(400) < 0.5
    outcome = [["b", "a"][int(rng.random() < (0.2 if h else 0.9))] for h in [*hard, *hard]]
    table = battle_table(
        ["one"] * 400 + ["two"] * 400, ["base"] * 800, outcome, prompts=[*range(400), *range(400)]
    )
    lengths = rng.normal(100, 20, (800, 2))
    table = BattleTable(table.names, table.a, table.b, table.outcome, table.prompt, lengths=lengths)
    with_difficulty = length_controlled_rates(table, "base")
    assert [row.model for row in with_difficulty] == ["one", "two"]
    for row in with_difficulty:
        assert row.rate.mean == pytest.approx(row.raw, abs=0.02)


@pytest.mark.parametrize(("bias", "found"), [(0.0, False), (0.5, True)])
def test_the_position_effect(bias: float, found: bool) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 3, 4000)
    b = (a + rng.integers(1, 3, 4000)) % 3
    p = 1 / (1 + np.exp(-(0.4 * (a - b) + bias)))
    outcomes = np.where(rng.random(4000) < p, "a", "b")
    names = np.array(["x", "y", "z"])
    effect = position_effect(battle_table(names[a], names[b], outcomes))
    assert effect is not None
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < 1 / (1 + np.exp(-bias)) < effect.high
    assert (effect.low > 0.5) is found
    in_order = battle_table(["x"] * 9, ["y"] * 9, ["a", "b", "tie"] * 3)
    assert position_effect(in_order) is None  # strength and position are one
