"""Bradley-Terry ratings against closed forms, a textbook and an independent library."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import choix
import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.ratings.battles import Counts, count_battles
from accord.measure.ratings.bradley_terry import components, fit_strengths
from accord.measure.ratings.elo import online_elo
from accord.measure.ratings.rate import ModelRating, Ratings, rate_models
from accord.records import Battle, Outcome


def by_name(ratings: Ratings) -> dict[str, float]:
    return {row.model: row.rating for row in ratings.models}


def bounds(row: ModelRating) -> tuple[float, float]:
    assert row.low is not None
    assert row.high is not None
    return row.low, row.high


def two_players(wins: int, losses: int, ties: int = 0) -> Counts:
    counts: dict[tuple[str, str, Outcome], int] = {
        ("a", "b", "a"): wins,
        ("a", "b", "b"): losses,
        ("a", "b", "tie"): ties,
    }
    return counts


def random_battles(seed: int, models: int, battles: int) -> list[Battle]:
    rng = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, models)
    names = [f"m{i}" for i in range(models)]
    out = []
    for _ in range(battles):
        i, j = rng.choice(models, size=2, replace=False)
        p = 1 / (1 + math.exp(strength[j] - strength[i]))
        out.append(Battle(names[i], names[j], "a" if rng.random() < p else "b"))
    return out


def test_two_players_have_a_closed_form() -> None:
    # P = w/(w+l) = σ(Δ), so Δ = ln(w/l): the ratings differ by 400·log10(w/l); mean 1000.
    ratings = by_name(rate_models(two_players(30, 10), bootstrap=0))
    gap = 400 * math.log10(3)
    assert ratings == pytest.approx({"a": 1000 + gap / 2, "b": 1000 - gap / 2})


def test_a_tie_is_half_a_win_and_both_bad_is_a_tie_that_is_counted_separately() -> None:
    # 20 wins, 4 losses, 8 ties: scores of 24 and 8.
    gap = 400 * math.log10(24 / 8)
    tied = rate_models(two_players(20, 4, 8), anchor="b", bootstrap=0)
    assert by_name(tied) == pytest.approx({"a": 1000 + gap, "b": 1000})
    bad = rate_models(
        {("a", "b", "a"): 20, ("a", "b", "b"): 4, ("b", "a", "both_bad"): 8},
        anchor="b",
        bootstrap=0,
    )
    assert by_name(bad) == pytest.approx(by_name(tied))
    row = bad.models[0]
    assert (row.model, row.battles, row.wins, row.losses, row.ties, row.both_bad) == (
        "a", 32, 20, 4, 0, 8,
    )  # fmt: skip
    assert bad.pairs[0].both_bad == 8


def test_sandwich_of_two_players_by_hand() -> None:
    # One binomial share p = 3/4 of n = 40: Var(logit p) = 1/(n·p·(1−p)), the inverse curvature,
    # which the sandwich equals without ties. The anchor is fixed, so all variance is that of a.
    a, b = rate_models(two_players(30, 10), anchor="b", bootstrap=0).models
    half = 1.959963985 * 400 / math.log(10) / math.sqrt(40 * 0.75 * 0.25)
    assert a.high == pytest.approx(a.rating + half)
    assert a.low == pytest.approx(a.rating - half)
    assert (b.low, b.high) == pytest.approx((1000, 1000))


def test_bootstrap_and_sandwich_agree_where_battles_are_many() -> None:
    battles = random_battles(0, 5, 3000)
    resampled = rate_models(battles, bootstrap=1000, seed=1)
    sandwich = {row.model: row for row in rate_models(battles, bootstrap=0).models}
    for row in resampled.models:
        low, high = bounds(sandwich[row.model])
        assert bounds(row) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_ties_narrow_the_sandwich() -> None:
    # All ties: the outcomes have no spread, so the sandwich has no width (the curvature has).
    ratings = rate_models(two_players(0, 0, 40), bootstrap=0)
    assert ratings.models[0].low == pytest.approx(1000)


def test_choix_agrees() -> None:
    battles = random_battles(3, 8, 600)
    data = [
        (int(b.model_a[1:]), int(b.model_b[1:]))
        if b.outcome == "a"
        else (int(b.model_b[1:]), int(b.model_a[1:]))
        for b in battles
    ]
    strengths = choix.opt_pairwise(8, data, tol=1e-10)
    ratings = by_name(rate_models(battles, bootstrap=0))
    expected = 1000 + 400 / math.log(10) * (strengths - strengths.mean())
    assert [ratings[f"m{i}"] for i in range(8)] == pytest.approx(expected.tolist(), abs=1e-3)


def test_baseball_of_agresti(shared_data: Path) -> None:
    with (shared_data / "bradley_terry" / "agresti_baseball_1987.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts: dict[tuple[str, str, Outcome], int] = {}
    for row in rows:
        pair = row["home_team"], row["away_team"]
        counts[(*pair, "a")] = int(row["home_wins"])
        counts[(*pair, "b")] = int(row["away_wins"])
    ratings = sorted(by_name(rate_models(counts, bootstrap=0)).values())
    strengths = [(r - ratings[0]) * math.log(10) / 400 for r in ratings]
    assert [round(s, 2) for s in strengths[1:]] == [0.68, 1.11, 1.25, 1.29, 1.44, 1.58]


def test_the_estimate_is_a_stationary_point_of_the_likelihood() -> None:
    # At the maximum, the score of each model equals its expected score.
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 50, size=(3, 6, 6)).astype(float)
    scores[:, range(6), range(6)] = 0
    theta = fit_strengths(scores, np.zeros((3, 6), dtype=np.intp))
    p = 1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))
    expected = ((scores + scores.swapaxes(1, 2)) * p).sum(axis=2)
    np.testing.assert_allclose(scores.sum(axis=2), expected, rtol=1e-9)
    np.testing.assert_allclose(theta.sum(axis=1), 0, atol=1e-9)


def test_the_fit_converges_for_lopsided_counts() -> None:
    gap = 400 * math.log10(2_000_000 / 1)
    ratings = by_name(rate_models(two_players(2_000_000, 1), anchor="b", bootstrap=0))
    assert ratings["a"] == pytest.approx(1000 + gap, rel=1e-9)
    # A chain of near-certain wins: strengths add along it, since no battle closes a cycle.
    chain: dict[tuple[str, str, Outcome], int] = {}
    for i in range(6):
        chain[(f"m{i + 1}", f"m{i}", "a")] = 999
        chain[(f"m{i + 1}", f"m{i}", "b")] = 1
    ratings = by_name(rate_models(chain, anchor="m0", bootstrap=0))
    assert ratings["m6"] == pytest.approx(1000 + 6 * 400 * math.log10(999), rel=1e-9)


def test_a_model_that_always_wins_has_no_finite_rating() -> None:
    counts: Counts = {
        ("best", "x", "a"): 10,
        ("best", "y", "a"): 10,
        ("x", "y", "a"): 6,
        ("x", "y", "b"): 4,
    }
    ratings = rate_models(counts, bootstrap=50)
    assert not ratings.finite
    assert by_name(ratings)["best"] == math.inf
    # x and y still differ by 400·log10(6/4), and 1000 is their mean.
    gap = 400 * math.log10(1.5)
    assert by_name(ratings)["x"] == pytest.approx(1000 + gap / 2)
    text = " ".join(ratings.notes)
    assert "best won every battle against x and y" in text
    assert "x and y lost every battle against best" in text
    assert "1000 is the mean of x and y alone." in text
    best = ratings.models[0]
    assert (best.model, best.low, best.high) == ("best", None, None)
    json.loads(json.dumps(ratings.to_json(), allow_nan=False))
    assert ratings.to_json()["models"][0]["rating"] is None


def test_a_model_that_always_loses_and_groups_that_never_met() -> None:
    low = rate_models({("base", "x", "b"): 5, ("x", "y", "tie"): 4}, bootstrap=0)
    assert by_name(low)["base"] == -math.inf
    assert low.models[-1].model == "base"
    apart = rate_models({("a", "b", "tie"): 2, ("c", "d", "tie"): 4}, anchor="c", bootstrap=10)
    assert math.isnan(by_name(apart)["a"])
    assert by_name(apart)["d"] == pytest.approx(1000)
    assert "a and b met no other model; c and d met no other model" in apart.notes[0]
    assert apart.models[-1].low is None
    assert apart.models[-1].high is None


def test_a_chain_of_sweeps_is_rated_relative_to_its_anchor() -> None:
    chain: Counts = {("a", "b", "a"): 3, ("b", "c", "a"): 3}
    ratings = by_name(rate_models(chain, anchor="b", bootstrap=0))
    assert ratings == {"a": math.inf, "b": 1000.0, "c": -math.inf}


def test_a_prior_makes_every_rating_finite_and_says_so() -> None:
    # 10 wins of 10 with one pseudo-battle: scores of 10.5 and 0.5.
    ratings = rate_models(two_players(10, 0), anchor="b", prior=1.0, bootstrap=400)
    assert ratings.finite
    assert by_name(ratings)["a"] == pytest.approx(1000 + 400 * math.log10(10.5 / 0.5))
    assert "Regularised on request: 1 pseudo-battle(s)" in ratings.notes[0]
    a = ratings.models[0]
    assert a.low is not None
    assert a.high is not None
    assert a.low < a.rating <= a.high  # an interval of no width would be wrong
    assert a.wins == 10
    assert a.battles == 10


def test_bootstrap_rounds_without_an_estimate_are_counted_and_leave_the_end_open() -> None:
    # One loss in 30: a round loses it with probability (29/30)^30 = 0.36, far above 2.5%.
    ratings = rate_models(two_players(29, 1), anchor="b", bootstrap=300, seed=1)
    a = ratings.models[0]
    assert a.low is not None
    assert a.low < a.rating
    assert a.high is None
    assert "bootstrap rounds no finite rating existed" in ratings.notes[0]
    count = int(ratings.notes[0].split()[1])
    assert 0.25 < count / 300 < 0.47


def test_the_bootstrap_covers_the_truth() -> None:
    # True gap 400·log10(e) = 174; the interval at 90% should contain it in about 90% of data sets.
    rng = np.random.default_rng(6)
    truth = 400 / math.log(10)
    covered = 0
    for seed in range(200):
        wins = int(rng.binomial(200, 1 / (1 + math.exp(-1))))
        counts = two_players(wins, 200 - wins)
        ratings = rate_models(counts, anchor="b", confidence=0.9, bootstrap=200, seed=seed)
        low, high = bounds(ratings.models[0])
        covered += low - 1000 <= truth <= high - 1000
    assert 0.84 <= covered / 200 <= 0.96


def test_cost_does_not_depend_on_the_number_of_battles() -> None:
    # A thousand million battles have the same four cells.
    ratings = rate_models(two_players(600_000_000, 400_000_000), anchor="b", bootstrap=50)
    assert by_name(ratings)["a"] == pytest.approx(1000 + 400 * math.log10(1.5))


def test_order_and_side_do_not_matter() -> None:
    battles = random_battles(7, 4, 200)
    swap: dict[Outcome, Outcome] = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}
    swapped = [Battle(b.model_b, b.model_a, swap[b.outcome]) for b in reversed(battles)]
    assert count_battles(battles) == count_battles(swapped)
    first, second = rate_models(battles, seed=2), rate_models(swapped, seed=2)
    assert [(r.model, r.rating, r.low) for r in first.models] == [
        (r.model, r.rating, r.low) for r in second.models
    ]


def test_what_cannot_be_rated_is_refused() -> None:
    with pytest.raises(DataError, match="There are no battles to rate models by"):
        rate_models([])
    with pytest.raises(DataError, match="The anchor 'z' is in no battle; the models are a, b"):
        rate_models(two_players(1, 1), anchor="z")
    with pytest.raises(DataError, match="The prior is -1"):
        rate_models(two_players(1, 1), prior=-1)
    with pytest.raises(DataError, match="'a' battles itself"):
        rate_models([Battle("a", "a", "tie")])
    with pytest.raises(DataError, match="outcome 'draw'; it must be one of a, b, tie, both_bad"):
        rate_models([Battle("a", "b", "draw")])  # type: ignore[arg-type]


def test_components_are_strong_ones() -> None:
    # 0 beats 1, 1 beats 2, 2 beats 0: a cycle. 3 wins nothing.
    scores = np.zeros((4, 4))
    for winner, loser in ((0, 1), (1, 2), (2, 0), (0, 3)):
        scores[winner, loser] = 1
    labels = components(scores).tolist()
    assert labels[0] == labels[1] == labels[2] != labels[3]


def elo_by_hand(battles: Sequence[Battle]) -> dict[str, float]:
    # First battle: equal ratings expect 1/2, so the winner gains 4·(1 − 1/2) = 2.
    # Second, a tie at 1002 against 998: expected 1/(1 + 10^(−4/400)), so the leader loses a bit.
    expected = 1 / (1 + 10 ** (-4 / 400))
    change = 4 * (0.5 - expected)
    return {"a": 1002 + change, "b": 998 - change}


def test_online_elo_by_hand() -> None:
    battles = [Battle("a", "b", "a"), Battle("b", "a", "tie")]
    assert online_elo(battles) == pytest.approx(elo_by_hand(battles))
    ratings = rate_models([*battles, Battle("b", "a", "a")], bootstrap=0)
    assert all(row.elo_online is not None for row in ratings.models)
    assert rate_models(two_players(1, 1), bootstrap=0).models[0].elo_online is None
