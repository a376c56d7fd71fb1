"""Cycles, orders that a rule of ties turns around, and the battles to hold next."""

from __future__ import annotations

import numpy as np
import pytest

from accord.measure.ratings.battles import Counts, pair_counts
from accord.measure.ratings.bradley_terry import laplacian
from accord.measure.ratings.consistency import next_pairs, order_flips, preference_cycle
from accord.measure.ratings.rate import rate_models
from accord.records import Outcome

CYCLE: Counts = {
    ("rock", "scissors", "a"): 40, ("rock", "scissors", "b"): 10,
    ("paper", "rock", "a"): 40, ("paper", "rock", "b"): 10,
    ("scissors", "paper", "a"): 40, ("scissors", "paper", "b"): 10,
    ("stone", "rock", "a"): 26, ("stone", "rock", "b"): 24,
}  # fmt: skip


def test_a_cycle_is_named_where_each_step_is_significant() -> None:
    assert preference_cycle(pair_counts(CYCLE)) == ("paper", "rock", "scissors")
    weak = {key: count // 10 + 1 for key, count in CYCLE.items()}
    assert preference_cycle(pair_counts(weak)) == ()
    straight = {**CYCLE, ("scissors", "paper", "a"): 10, ("scissors", "paper", "b"): 40}
    assert preference_cycle(pair_counts(straight)) == ()
    assert preference_cycle([]) == ()
    notes = rate_models(CYCLE, bootstrap=0).notes
    assert any("paper to rock, rock to scissors, scissors to paper" in note for note in notes)
    assert not any("scale" in note for note in rate_models(straight, bootstrap=0).notes)


def test_the_shortest_cycle_is_named() -> None:
    names = "abcde"
    ring: Counts = {(names[i], names[(i + 1) % 5], "a"): 30 for i in range(5)}
    assert preference_cycle(pair_counts(ring)) == tuple(names)
    assert preference_cycle(pair_counts({**ring, ("c", "a", "a"): 30})) == ("a", "b", "c")


def test_pairs_that_another_rule_of_ties_turns_around() -> None:
    # y ties with what it meets often; z does not.
    wins = [[0, 1, 9, 3], [9, 0, 10, 6], [9, 9, 0, 6], [5, 3, 5, 0]]
    ties = {("w", "y"): 20, ("x", "y"): 15, ("x", "z"): 9}
    counts: dict[tuple[str, str, Outcome], int] = {
        ("wxyz"[i], "wxyz"[j], "a"): wins[i][j] for i in range(4) for j in range(4) if i != j
    }
    counts |= {(a, b, "tie"): count for (a, b), count in ties.items()}
    by_rule = {
        rule: {m.model: m.rating for m in rate_models(counts, ties=rule, bootstrap=0).models}
        for rule in ("half", "rao_kupper", "davidson")  # type: ignore[arg-type]
    }
    turned = {
        (a, b)
        for a in "wxyz"
        for b in "wxyz"
        if by_rule["half"][a] > by_rule["half"][b]
        and min(by_rule[rule][a] - by_rule[rule][b] for rule in by_rule) < 0
    }
    assert turned
    notes = rate_models(counts, bootstrap=0).notes
    (note,) = [note for note in notes if "what a tie counts as" in note]
    assert all(f"{a} and {b}" in note for a, b in turned)
    without = {key: count for key, count in counts.items() if key[2] != "tie"}
    assert not any("tie counts" in note for note in rate_models(without, prior=1.0).notes)
    split = np.array([0, 1], dtype=np.intp)
    assert order_flips(["a", "b"], np.ones((2, 2)), np.ones((2, 2)), split) == []


def test_the_next_battle_lowers_the_variance_most() -> None:
    rng = np.random.default_rng(0)
    battles = np.triu(rng.integers(1, 40, (5, 5)), 1).astype(float)
    strengths = rng.normal(0, 1, 5)
    p = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    information = laplacian((battles + battles.T) * p * (1 - p))
    names = list("abcde")
    covariance = np.linalg.pinv(information)
    pairs = next_pairs(names, strengths, covariance, count=10)
    for a, b, share in pairs:
        i, j = names.index(a), names.index(b)
        x = np.zeros(5)
        x[i], x[j] = 1, -1
        after = np.linalg.pinv(information + p[i, j] * (1 - p[i, j]) * np.outer(x, x))
        assert share == pytest.approx(1 - np.trace(after) / np.trace(covariance))
    shares = [share for *_, share in pairs]
    assert shares == sorted(shares, reverse=True)
    assert len(next_pairs(names, strengths, covariance)) == 5
