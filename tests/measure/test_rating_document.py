"""Ratings by category, over checkpoints, and which models are not distinguished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accord.measure.ratings.bradley_terry import components, fit_strengths
from accord.measure.ratings.categories import fit_shrunk, fit_tau, rate_categories
from accord.measure.ratings.document import RatingDocument, rating_document
from accord.measure.ratings.needed import units_needed
from accord.measure.ratings.progress import moment_of, rated_runs
from accord.measure.ratings.rate import rate_models
from accord.measure.ratings.separation import battles_needed
from accord.measure.ratings.table import BattleTable, battle_table
from accord.measure.statistics import Floats


def scores_of(strengths: Floats, battles: int, rng: np.random.Generator) -> Floats:
    """Scores [models, models] of so many battles of each pair."""
    models = len(strengths)
    scores = np.zeros((models, models))
    for i in range(models):
        for j in range(i):
            won = rng.binomial(battles, 1 / (1 + np.exp(strengths[j] - strengths[i])))
            scores[i, j], scores[j, i] = won, battles - won
    return scores


def table_of(scores: dict[str, Floats]) -> BattleTable:
    rows = [
        (f"m{i}", f"m{j}", "a", category)
        for category, matrix in scores.items()
        for (i, j), count in np.ndenumerate(matrix)
        for _ in range(int(count))
    ]
    a, b, outcomes, categories = zip(*rows, strict=True)
    return battle_table(a, b, outcomes, categories=categories)


def test_a_strong_prior_gives_the_overall_ratings_and_none_the_separate_ones() -> None:
    scores = scores_of(np.array([0.5, 0.0, -0.5]), 40, np.random.default_rng(0))
    center = np.array([-0.3, 0.1, 0.2])
    alone = fit_strengths(scores, components(scores))
    assert fit_shrunk(scores, center, 1e-5)[0] == pytest.approx(center, abs=1e-6)
    assert fit_shrunk(scores, center, 1e5)[0] == pytest.approx(alone, abs=1e-6)
    between = fit_shrunk(scores, center, 0.3)[0]
    assert abs(between - center).sum() < abs(alone - center).sum()
    p = 1 / (1 + np.exp(between[None, :] - between[:, None]))
    gradient = (scores - (scores + scores.T) * p).sum(axis=1)
    assert gradient == pytest.approx((between - center) / 0.3**2, abs=1e-7)
    assert between.sum() == pytest.approx(0, abs=1e-9)


def test_tau_is_found_from_the_categories() -> None:
    rng = np.random.default_rng(1)
    theta = np.linspace(-1, 1, 8)
    for tau in (0.2, 0.8):
        shifts = rng.normal(0, tau, (12, 8))
        scores = [scores_of(theta + shift, 60, rng) for shift in shifts]
        assert fit_tau(scores, theta) == pytest.approx(tau, rel=0.25)
    same = [scores_of(theta, 60, rng) for _ in range(12)]
    assert fit_tau(same, theta) < 0.08
    assert fit_tau(same, theta, design_effect=4.0) < 0.12


def test_the_intervals_of_categories_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    theta = np.linspace(-1, 1, 6)
    theta -= theta.mean()
    covered = total = 0
    for _ in range(12):
        shifts = rng.normal(0, 0.4, (5, 6))
        truth = theta + shifts - shifts.mean(axis=1, keepdims=True)
        table = table_of(
            {
                f"c{c}": scores_of(row, n, rng)
                for c, (row, n) in enumerate(zip(truth, (9, 9, 20, 40, 80), strict=True))
            }
        )
        overall = rate_models(table, bootstrap=0)
        by_name = {row.model: row.rating for row in overall.models}
        strengths = np.array([by_name[name] for name in table.names])
        strengths = (strengths - strengths.mean()) * np.log(10) / 400
        covariance = np.eye(6) * 0.01
        rows, _ = rate_categories(table, strengths, covariance, anchors=range(6))
        for c, row in enumerate(rows):
            for model in row.models:
                true = 1000 + 400 / np.log(10) * truth[c, int(model.model[1:])]
                covered += model.low < true < model.high
                total += 1
    assert 0.92 < covered / total < 0.99
    assert "fewer than" not in rows[4].note
    assert rows[0].note == ""  # 45 battles of each


def test_a_category_with_few_battles_says_so() -> None:
    rng = np.random.default_rng(3)
    theta = np.array([0.6, 0.0, -0.6])
    table = table_of({"many": scores_of(theta, 80, rng), "few": scores_of(-theta, 2, rng)})
    document = document_of(table)
    few, many = sorted(document.categories, key=lambda row: row.category)
    assert "fewer than 30 battles of" in few.note
    assert many.note == ""
    assert any("Few battles in few" in note for note in document.notes)
    assert [row.model for row in many.models] == ["m0", "m1", "m2"]
    assert max(row.weight for row in few.models) < min(row.weight for row in many.models)


def document_of(table: BattleTable, bootstrap: int = 0, **options: object) -> RatingDocument:
    ratings = rate_models(table, bootstrap=bootstrap)
    return rating_document(table, ratings, **options)  # type: ignore[arg-type]


def test_the_battles_needed_are_those_of_a_direct_test() -> None:
    # 52% of wins: d = ln(.52/.48). With no battles yet the number is that of the test of a share.
    difference = float(np.log(0.52 / 0.48))
    expected = units_needed([1.0] * 52 + [0.0] * 48)
    assert battles_needed(difference, np.inf, 0.0) == pytest.approx(expected, rel=0.01)
    # With ties: 32% won, 28% lost, 40% tied.
    expected = units_needed([1.0] * 32 + [0.0] * 28 + [0.5] * 40)
    assert battles_needed(difference, np.inf, 0.4) == pytest.approx(expected, rel=0.01)
    # Known from 1,000 such battles already: 1,000 fewer.
    p = 0.52
    whole = battles_needed(difference, np.inf, 0.0)
    rest = battles_needed(difference, 1 / (1000 * p * (1 - p)), 0.0)
    assert whole is not None
    assert rest == pytest.approx(whole - 1000, abs=1)
    assert battles_needed(0.0, 0.1, 0.0) is None


@pytest.mark.parametrize("bootstrap", [0, 200])
def test_models_that_are_not_distinguished(bootstrap: int) -> None:
    rng = np.random.default_rng(4)
    table = table_of({"": scores_of(np.array([1.5, 0.02, 0.0]), 60, rng)})
    document = document_of(table, bootstrap)
    (pair,) = document.unclear
    assert {pair.better, pair.worse} == {"m1", "m2"}
    assert pair.more_battles is None or pair.more_battles > 100
    assert any(note.startswith("Not distinguished: m") for note in document.notes)
    assert len(document.next_pairs) == 3
    json = document.to_json()
    assert json["not_distinguished"][0]["better"] == pair.better
    assert json["next_pairs"][0]["variance_removed"] > 0


def test_groups_that_never_met_are_joined_next() -> None:
    table = battle_table(
        ["a", "b", "c", "d", "a"], ["b", "a", "d", "c", "b"], ["a", "a", "a", "a", "a"]
    )
    table = replace(table, categories=("x",), category=np.zeros(5, dtype=np.int64))
    document = document_of(table)
    assert document.categories == ()
    assert "No ratings at equal style or by category without a common scale." in document.notes
    assert document.next_pairs == (("b", "d", None),) or document.next_pairs == (("a", "c", None),)
    assert not document.ratings.finite
    assert "joins the groups" in document.notes[-1]
    assert document.unclear == ()


def test_style_position_and_constant_answers_are_in_the_document() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3000, 1))
    won = rng.random(3000) < 1 / (1 + np.exp(-(x[:, 0] + 0.4)))
    swap = rng.random(3000) < 0.5
    table = battle_table(
        np.where(swap, "y", "x"),
        np.where(swap, "x", "y"),
        np.where(won, "a", "b"),
        style=x,
        style_names=["length"],
    )
    table = replace(table, lengths=np.abs(rng.normal(100, 9, (3000, 2))))
    document = document_of(table, styles=["length"], positions=True, constant=["y"])
    (effect,) = document.style_effects
    assert effect.low > 0
    assert document.position is not None
    assert document.position.mean == pytest.approx(1 / (1 + np.exp(-0.35)), abs=0.03)
    assert [row.model for row in document.length_controlled] in (["x"], ["y"])
    starts = [note.split(":")[0] for note in document.notes]
    assert "y gave one and the same answer to every prompt. Whatever it won" in document.notes[0]
    assert {"Position matters", "Style matters"} <= set(starts)
    at_equal = {row.model: row for row in document.style_ratings}
    assert at_equal["x"].low < 1000 < at_equal["x"].high


def test_the_names_of_checkpoints_and_rounds() -> None:
    assert moment_of("dpo@100") == ("dpo", "step", 100)
    assert moment_of("my-run@round-2") == ("my-run", "round", 2)
    assert moment_of("round-3") == ("", "round", 3)
    assert moment_of("runs/dpo/checkpoint-40") == ("runs/dpo", "step", 40)
    for name in ("gpt-4", "llama3", "7b", "base", "round", "qwen2.5-7"):
        assert moment_of(name) is None


def test_a_run_is_rated_over_its_steps() -> None:
    rng = np.random.default_rng(6)
    table = table_of({"": scores_of(np.array([0.0, 0.8, 0.4]), 50, rng)})
    table = replace(table, names=("dpo@100", "dpo@1000", "sft"))
    (run,) = rated_runs(rate_models(table, bootstrap=0).models)
    assert (run.run, run.unit, [m.number for m in run.moments]) == ("dpo", "step", [100, 1000])
    assert run.moments[0].rating < run.moments[1].rating
    assert run.to_json()["moments"][0]["model"] == "dpo@100"


def test_copies_under_one_prompt_change_no_category() -> None:
    rng = np.random.default_rng(7)
    theta = np.array([0.5, 0.0, -0.5])
    table = table_of({"c": scores_of(theta, 50, rng), "d": scores_of(-theta, 50, rng)})
    rows = np.repeat(np.arange(len(table)), 4)
    copies = replace(table.select(rows), prompt=rows)  # type: ignore[arg-type]
    once, four = (document_of(each).categories for each in (table, copies))
    for one, other in zip(once, four, strict=True):
        for a, b in zip(one.models, other.models, strict=True):
            assert (b.rating, b.low) == pytest.approx((a.rating, a.low), abs=3)


def test_a_category_that_rests_on_the_overall_ratings_has_their_interval() -> None:
    table = table_of({"c": scores_of(np.zeros(2), 9, np.random.default_rng(8))})
    covariance = np.array([[0.04, -0.04], [-0.04, 0.04]])
    (row,), _ = rate_categories(table, np.zeros(2), covariance, anchors=[0, 1], tau=1e-3)
    half = 1.96 * 400 / np.log(10) * 0.2
    for model in row.models:
        assert model.high - model.rating == pytest.approx(half, rel=0.01)
        assert model.weight < 0.01


def styled(ties: float, prior: float = 0.0) -> tuple[BattleTable, RatingDocument]:
    rng = np.random.default_rng(7)
    won = np.where(rng.random(900) < 0.8, "a", "b")
    outcomes = np.where(rng.random(900) < ties, "tie", won)
    table = battle_table(
        ["x"] * 900,
        ["y"] * 900,
        outcomes,
        style=rng.normal(size=(900, 1)),
        style_names=["bold"],
        categories=np.where(rng.random(900) < 0.5, "code", "prose"),
    )
    ratings = rate_models(table, ties="rao_kupper", bootstrap=0, prior=prior)
    return table, rating_document(table, ratings, styles=["bold"], prior=prior)


def test_style_and_categories_take_ties_for_half_whatever_the_ratings_do() -> None:
    table, document = styled(0.5)
    half = {row.model: row.rating for row in rate_models(table, bootstrap=0).models}
    spread = {row.model: row.rating for row in document.ratings.models}
    assert spread["x"] > half["x"] + 20  # the scale of the model of ties is another
    for row in document.style_ratings:
        assert row.rating - row.change == pytest.approx(half[row.model])
    for category in document.categories:
        mean = {row.model: row.rating for row in category.models}
        assert mean["x"] == pytest.approx(half["x"], abs=12)


def test_no_finite_style_is_a_note_and_not_an_error() -> None:
    table = battle_table(
        ["x"] * 6, ["y"] * 6, ["a"] * 6, style=np.ones((6, 1)), style_names=["bold"]
    )
    ratings = rate_models(table, bootstrap=0, prior=1.0)
    document = rating_document(table, ratings, styles=["bold"], prior=1.0)
    assert document.style_ratings == ()
    assert any(note.startswith("No ratings at equal style") for note in document.notes)


def test_names_of_prompts_are_no_categories() -> None:
    names = [str(i) for i in range(402)]
    table = battle_table(["x"] * 402, ["y"] * 402, ["a", "b"] * 201, categories=names)
    document = document_of(table)
    assert document.categories == ()
    assert any("there are 402, and at most 200" in note for note in document.notes)


def test_length_that_decides_is_noted() -> None:
    rng = np.random.default_rng(8)
    longer = rng.normal(200, 250, 2000)
    won = rng.random(2000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))
    table = battle_table(["x"] * 2000, ["y"] * 2000, np.where(won, "a", "b"))
    lengths = np.stack([500 + longer, np.full(2000, 500.0)], axis=1)
    notes = document_of(replace(table, lengths=lengths)).notes
    assert any(note.startswith("Length matters: ") for note in notes)
    even = replace(table, lengths=rng.normal(500, 50, (2000, 2)))
    assert not any(note.startswith("Length matters: ") for note in document_of(even).notes)


def test_the_level_of_the_settings_holds_for_what_is_not_distinguished() -> None:
    """m0 won 60 of 100 battles: z = √100·(.6 − .5)/√(.6·.4) ≈ 2.0, p ≈ .045 for one pair."""
    table = table_of({"all": np.array([[0.0, 60.0], [40.0, 0.0]])})
    wide, narrow = (
        rating_document(table, rate_models(table, bootstrap=0, confidence=level))
        for level in (0.99, 0.8)
    )
    assert len(wide.unclear) == 1
    assert narrow.unclear == ()
    even = table_of({"all": np.array([[0.0, 52.0], [48.0, 0.0]])})
    more = [
        rating_document(even, rate_models(even, bootstrap=0, confidence=level)).unclear
        for level in (0.99, 0.8)
    ]
    # (z₀.₉₉₅ + z₀.₈)² / (z₀.₉ + z₀.₈)² = (3.417 / 2.123)² = 2.59 times as many battles in all.
    assert more[0][0].more_battles is not None
    assert more[1][0].more_battles is not None
    assert (more[0][0].more_battles + 100) / (more[1][0].more_battles + 100) == pytest.approx(
        2.59, rel=0.01
    )
