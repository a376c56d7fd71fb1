"""Win rates by hand, with separate counts of ties and of battles with two bad answers."""

from __future__ import annotations

import math

import pytest

from accord.measure.ratings.battles import Counts
from accord.measure.ratings.win_rates import win_rates
from accord.records import Battle


def test_rate_and_standard_error_by_hand() -> None:
    # a against b: win, win, loss, tie -> scores 1, 1, 0, 1/2 (from b's side half of the time).
    table = win_rates(
        [
            Battle("a", "b", "a"),
            Battle("b", "a", "b"),
            Battle("a", "b", "b"),
            Battle("b", "a", "tie"),
        ]
    )
    rate = table["a"]["b"]
    assert rate.rate == 0.625
    # Σ(y − .625)² = 2·.375² + .625² + .125² = .6875; s² = .6875/3; error √(s²/4)
    assert rate.standard_error == pytest.approx(math.sqrt(0.6875 / 3 / 4))
    assert (rate.wins, rate.losses, rate.ties, rate.both_bad, rate.battles) == (2, 1, 1, 0, 4)
    assert table["b"]["a"].rate == 0.375
    assert (table["b"]["a"].wins, table["b"]["a"].losses) == (1, 2)


def test_both_bad_and_ties_are_counted_separately() -> None:
    counts: Counts = {("a", "b", "both_bad"): 3, ("a", "b", "tie"): 1}
    rate = win_rates(counts)["a"]["b"]
    assert (rate.ties, rate.both_bad, rate.rate, rate.standard_error) == (1, 3, 0.5, 0.0)


def test_an_interval_of_all_wins_has_a_width_and_one_battle_has_no_error() -> None:
    sweep = win_rates({("a", "b", "a"): 50})["a"]["b"]
    assert sweep.rate == 1
    assert sweep.interval.high == 1
    assert sweep.interval.low is not None
    assert 0.92 < sweep.interval.low < 0.94  # exact: .025^(1/50) = .929
    assert win_rates([Battle("a", "b", "a")])["a"]["b"].standard_error is None


def test_models_that_never_met_have_no_entry() -> None:
    table = win_rates([Battle("a", "b", "a"), Battle("c", "d", "b")])
    assert set(table["a"]) == {"b"}
    assert set(table["c"]) == {"d"}
