"""Best-of-N for each N: unbiased means, the turning point, and the measured KL of the chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accord.measure.best_of_n import best_of_n_curve, find_turn, measured_best_of_n_kl


def test_the_expected_reward_of_each_n_is_that_of_all_subsets() -> None:
    # Of {1, 2, 3, 4} the mean is 5/2, the best of two 10/3 (as all six pairs give), of four 4;
    # of {5, 5, 5, 9} 6, 7 (half of the pairs have the 9) and 9.
    proxy = [[3.0, 1.0, 4.0, 2.0], [5.0, 9.0, 5.0, 5.0]]
    independent = [[0.0, 1.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0]]
    tokens = [[10.0, 20.0, 30.0, 40.0], [8.0, 4.0, 8.0, 8.0]]
    curve = best_of_n_curve(proxy, independent, tokens)
    assert [p.n for p in curve.points] == [1, 2, 4]
    assert [p.proxy.mean for p in curve.points] == pytest.approx(
        [(2.5 + 6) / 2, (10 / 3 + 7) / 2, (4 + 9) / 2]
    )
    # Pairs of the first prompt: 1 is never the best; of the second, the 9 wins half of them.
    assert [p.independent.mean for p in curve.points if p.independent] == pytest.approx(
        [(0.25 + 0.5) / 2, (0 + 0) / 2, (0 - 1) / 2]
    )
    # The length is that of the chosen; the cost that of all. Pairs of the first prompt: the 4 (30
    # tokens) wins three, the 3 (10 tokens) two, the 2 (40 tokens) one.
    assert [p.length.mean for p in curve.points if p.length] == pytest.approx(
        [(25 + 7) / 2, ((90 + 20 + 40) / 6 + 6) / 2, (30 + 4) / 2]
    )
    assert [p.tokens.mean for p in curve.points if p.tokens] == pytest.approx([16, 32, 64])
    # log n − (n−1)/n: 0, 0.193, 0.636.
    assert [round(p.kl, 3) for p in curve.points] == [0.0, 0.193, 0.636]
    assert curve.points[1].proxy_gain.mean == pytest.approx((10 / 3 - 2.5 + 1) / 2)
    assert curve.points[0].proxy_gain.mean == 0


def test_a_curve_without_an_independent_measure_says_what_is_unknown() -> None:
    curve = best_of_n_curve([[1.0, 2.0], [2.0, 5.0]])
    assert curve.points[0].independent is curve.points[0].tokens is None
    assert "Without an independent measure" in curve.finding
    assert "independent" not in curve.points[0].to_json()
    with pytest.raises(ValueError, match="2 prompts or more"):
        best_of_n_curve([[1.0, 2.0]])
    with pytest.raises(ValueError, match="the fewest responses 0"):
        best_of_n_curve([[1.0], []])


def test_a_hacked_reward_turns_the_independent_measure_down() -> None:
    # Quality is x − x²/2 of what the reward measures: it rises up to x = 1 and falls after it. The
    # largest of 64 normal draws is 2.4 on average, of 2 it is 0.56.
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(60, 64))
    curve = best_of_n_curve(proxy.tolist(), (proxy - proxy**2 / 2).tolist())
    assert curve.turn is not None
    assert curve.turn.n in (16, 32, 64)
    assert curve.turn.difference.high is not None
    assert curve.turn.difference.high < 0
    assert f"turns down at N = {curve.turn.n}" in curve.finding
    assert f"Serve at most N = {curve.turn.n // 2}." in curve.finding
    honest = best_of_n_curve(proxy.tolist(), proxy.tolist())
    assert honest.turn is None
    assert "is highest there" in honest.finding


def test_chance_alone_rarely_turns_a_curve() -> None:
    # An independent measure that has nothing to do with the reward: at most 5% of curves may have
    # a turn. Of 200 such curves more than 18 have one with a probability below 1 in 100.
    rng = np.random.default_rng(1)
    turns = 0
    for _ in range(200):
        quality = [rng.normal(size=20) for _ in range(5)]
        turns += find_turn([1, 2, 4, 8, 16], quality) is not None
    assert turns <= 18


def test_a_turn_is_against_the_n_from_which_it_fell_most_surely() -> None:
    noise = np.linspace(-0.01, 0.01, 12)
    levels = {1: 0.0, 2: 1.0, 4: 0.9, 8: 2.0}
    quality = [np.full(12, level) + i * noise for i, level in enumerate(levels.values())]
    turn = find_turn(list(levels), quality)
    assert turn is not None
    assert (turn.n, turn.m) == (4, 2)
    assert turn.difference.mean == pytest.approx(-0.1)


def test_the_kl_measured_of_best_of_n_is_the_closed_form() -> None:
    # Scores of any continuous distribution: log 16 − 15/16 = 1.835; of two, log 2 − 1/2 = 0.193.
    rng = np.random.default_rng(2)
    for n in (2, 16):
        chosen = rng.normal(size=(4000, n)).max(axis=1)
        others = rng.normal(size=(4000, 64))
        kl = measured_best_of_n_kl(chosen.tolist(), others.tolist(), n, confidence=0.999)
        assert kl.low is not None
        assert kl.high is not None
        assert kl.low <= math.log(n) - (n - 1) / n <= kl.high
        assert kl.high - kl.low < 0.15
    # One response is not chosen at all: its KL is 0.
    assert measured_best_of_n_kl([0.0, 1.0], [[0.0, 2.0], [3.0, 0.5]], 1).mean == 0


def test_ties_lower_the_kl() -> None:
    # Where all responses tie, choosing changes nothing: the KL is 0.
    assert measured_best_of_n_kl([1.0] * 3, [[1.0] * 8] * 3, 4).mean == pytest.approx(0)
    # Two levels, each with half of the responses: the best of two is of the upper one with 3/4, so
    # KL = 3/4·log(3/2) + 1/4·log(1/2) = 0.1308, below the 0.193 of responses that never tie.
    half = [0.0] * 4 + [1.0] * 4
    kl = measured_best_of_n_kl([1.0, 1.0, 1.0, 0.0], [half] * 4, 2)
    assert kl.mean == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_a_turn_is_told_from_where_it_fell_most_surely() -> None:
    # On each of 40 prompts: 1 at n=1, 2 at n=2, and about 0 at n=4, which is a fall from both.
    noise = np.linspace(-0.1, 0.1, 40)
    turn = find_turn([1, 2, 4], [np.full(40, 1.0), np.full(40, 2.0), noise])
    assert turn is not None
    assert (turn.n, turn.m) == (4, 2)
    assert turn.difference.mean == pytest.approx(-2)
