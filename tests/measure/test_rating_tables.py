"""Battles as columns: prompts whose battles are not independent, ranks, and style."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from accord.errors import DataError, WorkError
from accord.measure.ratings.battles import count_battles
from accord.measure.ratings.ranks import rank_intervals
from accord.measure.ratings.rate import Ratings, rate_models
from accord.measure.ratings.style import fit_style, relative_difference
from accord.measure.ratings.table import BattleTable, battle_table
from accord.records import Battle, Outcome


def columns(seed: int, models: int, battles: int) -> tuple[list[str], list[str], list[Outcome]]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, models, battles)
    b = (a + rng.integers(1, models, battles)) % models
    p = 1 / (1 + np.exp(0.4 * (a - b)))
    outcomes: list[Outcome] = [
        "tie" if tie else "a" if won else "b"
        for tie, won in zip(rng.random(battles) < 0.1, rng.random(battles) < p, strict=True)
    ]
    return [f"m{i}" for i in a], [f"m{i}" for i in b], outcomes


def widths(ratings: Ratings) -> list[float]:
    return [m.high - m.low for m in sorted(ratings.models, key=lambda m: m.model)]  # type: ignore[operator]


def test_a_table_has_the_counts_of_its_battles() -> None:
    a, b, outcomes = columns(0, 5, 300)
    battles = [Battle(*each) for each in zip(a, b, outcomes, strict=True)]
    table = battle_table(a, pa.array(b), np.array(outcomes, dtype=object))
    assert table.counts() == count_battles(battles)
    assert rate_models(table, bootstrap=50).models[0].rating == pytest.approx(
        rate_models(battles, bootstrap=0).models[0].rating
    )
    assert len(table) == 300
    assert len(table.select(table.a == 0)) == a.count("m0")


@pytest.mark.parametrize("bootstrap", [0, 400])
def test_battles_of_one_prompt_count_as_one_where_they_say_the_same(bootstrap: int) -> None:
    a, b, outcomes = columns(1, 4, 400)
    once = rate_models(battle_table(a, b, outcomes), bootstrap=bootstrap)
    prompts = [n for n in range(400) for _ in range(5)]
    five = battle_table(
        *(np.repeat(np.array(each), 5) for each in (a, b, outcomes)), prompts=prompts
    )
    clustered = rate_models(five, bootstrap=bootstrap)
    alone = rate_models(replace(five, prompt=None), bootstrap=bootstrap)
    assert widths(clustered) == pytest.approx(widths(once), rel=0.01 if not bootstrap else 0.2)
    narrower = [width / 5**0.5 for width in widths(once)]
    assert widths(alone) == pytest.approx(narrower, rel=0.01 if not bootstrap else 0.2)
    assert "The intervals take the 400 prompts as independent" in clustered.notes[0]
    assert not any("prompts" in note for note in alone.notes)
    # The same of battles that name their prompts.
    named = [Battle(a[i], b[i], outcomes[i], f"prompt {i}") for i in range(400) for _ in range(5)]
    assert widths(rate_models(named, bootstrap=bootstrap)) == pytest.approx(
        widths(clustered), rel=1e-9 if not bootstrap else 0.2
    )
    mixed = [*named[1:], replace(named[0], prompt="")]
    independent = rate_models(mixed, bootstrap=0)
    assert widths(independent) == pytest.approx(narrower, rel=0.2 if bootstrap else 0.01)


def test_a_prior_and_prompts() -> None:
    table = battle_table(["a"] * 20, ["b"] * 20, ["a"] * 20, prompts=[n // 2 for n in range(20)])
    for bootstrap in (0, 200):
        rating = rate_models(table, prior=1.0, bootstrap=bootstrap).models[0]
        assert rating.low is not None
        assert rating.low < rating.rating
    assert not rate_models(table, bootstrap=20).finite


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_b": ["x"]}, "2 first models meet 1 second"),
        ({"model_b": ["x", "x"]}, "'x' battles itself in row 1"),
        ({"outcomes": ["a", "draw"]}, "outcome 'draw'; use one of a, b, tie"),
        ({"outcomes": ["a"]}, "2 battles have 1 outcomes"),
        ({"model_a": ["x", None]}, "1 of the models are missing"),
        ({"prompts": [1]}, "2 battles have 1 prompts"),
        ({"style": [[1.0], [float("nan")]], "style_names": ["words"]}, "style of battle 2 is not"),
        ({"style": [[1.0], [2.0]]}, "`style` has 1 columns and 0 names"),
    ],
)
def test_columns_that_are_refused(values: dict[str, Any], message: str) -> None:
    given = {"model_a": ["x", "y"], "model_b": ["y", "z"], "outcomes": ["a", "tie"], **values}
    with pytest.raises(DataError, match=message):
        battle_table(**given)


def test_ranks_that_the_battles_allow() -> None:
    rng = np.random.default_rng(0)
    ratings = np.array([1200.0, 1010.0, 1000.0, 800.0])
    drawn = ratings + rng.normal(0, 10, (2000, 4))
    ranks = rank_intervals(ratings, drawn, 0.95)
    assert ranks.best.tolist() == [1, 2, 2, 4]
    assert ranks.worst.tolist() == [1, 3, 3, 4]
    assert ranks.above[0].tolist() == [False, True, True, True]
    # Differences have a deviation of 14.1; the largest of six is 2.5 to 2.6 of them in 95%.
    assert ranks.needed[1, 2] == pytest.approx((2.55 * 14.14 / 10) ** 2, rel=0.1)
    assert ranks.needed[0, 3] < 0.02
    assert np.isinf(np.diag(ranks.needed)).all()


def test_ratings_have_ranks_where_battles_were_resampled() -> None:
    a, b, outcomes = columns(2, 4, 4000)
    ratings = rate_models(battle_table(a, b, outcomes), bootstrap=300)
    shown = {m.model: (m.rank.mean, m.rank.low, m.rank.high) for m in ratings.models if m.rank}
    assert shown == {f"m{i}": (i + 1, i + 1, i + 1) for i in range(4)}
    assert ratings.to_json()["models"][0]["rank"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    few = rate_models(battle_table(a[:30], b[:30], outcomes[:30]), bootstrap=300, prior=1.0)
    assert max(m.rank.high for m in few.models if m.rank) == 4  # type: ignore[type-var]
    assert rate_models(battle_table(a, b, outcomes), bootstrap=0).models[0].rank is None


def test_all_ranks_are_covered_at_once() -> None:
    """As often as promised, though ten differences are compared and two are none."""
    true = np.array([1000.0, 1000.0, 1000.0, 1020.0, 1060.0])
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        estimate = true + rng.normal(0, 10, 5)
        ranks = rank_intervals(estimate, estimate + rng.normal(0, 10, (400, 5)), 0.95)
        covered += not (ranks.above & (true[:, None] <= true[None, :])).any()
    assert covered / 400 > 0.93


def test_rounds_without_an_estimate_leave_ranks_open() -> None:
    ratings = np.array([1200.0, 1000.0, 800.0])
    drawn = np.tile(ratings, (20, 1)) + np.linspace(-1, 1, 20)[:, None] * np.array([1, 0, -1])
    drawn[:3, 0] = np.inf
    ranks = rank_intervals(ratings, drawn, 0.95)
    assert (ranks.best.tolist(), ranks.worst.tolist()) == ([1, 1, 1], [3, 3, 3])
    infinite = rank_intervals(np.array([np.inf, 1000.0]), np.full((9, 2), np.nan), 0.95)
    assert infinite.worst.tolist() == [2, 2]


def styled(battles: int, gamma: float, seed: int = 0) -> BattleTable:
    """Two equal models, of which the first writes more, and more wins."""
    rng = np.random.default_rng(seed)
    style = rng.normal(0.8, 1.0, (battles, 1))
    p = 1 / (1 + np.exp(-gamma * style[:, 0]))
    outcomes = np.where(rng.random(battles) < p, "a", "b").astype(object)
    prompts = [n // 2 for n in range(battles)]
    return battle_table(
        ["long"] * battles, ["short"] * battles, outcomes,
        prompts=prompts, style=style, style_names=["words"],
    )  # fmt: skip


def test_at_equal_style_equal_models_are_equal() -> None:
    table = styled(20_000, gamma=0.5)
    raw = rate_models(table, bootstrap=0).models
    assert (raw[0].model, raw[0].rating - raw[1].rating > 50) == ("long", True)
    fit = fit_style(table)
    error = float(np.sqrt(fit.covariance[0, 0]))
    assert abs(fit.strengths[0]) < 3 * error < 0.1
    (effect,) = fit.effects(table.style_names, 0.95)
    scale = np.sqrt((table.style**2).mean())  # type: ignore[operator]
    assert effect.odds_ratio == pytest.approx(np.exp(0.5 * scale), rel=0.1)
    assert effect.low < effect.elo < effect.high
    assert effect.elo == pytest.approx(400 / np.log(10) * np.log(effect.odds_ratio))


def test_the_gradient_at_the_fit_is_zero_and_sides_do_not_matter() -> None:
    a, b, outcomes = columns(4, 4, 500)
    style = np.random.default_rng(1).normal(0, 2, (500, 2))
    table = battle_table(a, b, outcomes, style=style, style_names=["x", "y"])
    fit = fit_style(table, penalty=0.5)
    x = style / np.sqrt((style**2).mean(axis=0))
    y = np.array([{"a": 1.0, "b": 0.0, "tie": 0.5}[o] for o in outcomes])
    p = 1 / (1 + np.exp(-(fit.strengths[table.a] - fit.strengths[table.b] + x @ fit.gamma)))
    assert x.T @ (y - p) == pytest.approx(0.5 * fit.gamma, abs=1e-6)
    for model in range(4):
        sums = (y - p)[table.a == model].sum() - (y - p)[table.b == model].sum()
        assert sums == pytest.approx(0, abs=1e-6)
    swap: dict[Outcome, Outcome] = {"a": "b", "b": "a", "tie": "tie"}
    other = battle_table(b, a, [swap[o] for o in outcomes], style=-style, style_names=["x", "y"])
    again = fit_style(other, penalty=0.5)
    assert again.strengths == pytest.approx(fit.strengths, abs=1e-7)
    assert again.covariance == pytest.approx(fit.covariance, abs=1e-9)


def test_the_covariance_of_style_covers() -> None:
    """The interval of the effect, where the battles of a prompt are the same battle twice."""
    covered = 0
    for seed in range(200):
        table = styled(400, gamma=0.5, seed=seed)
        half = table.select(np.arange(400) % 2 == 0)
        twice = battle_table(
            ["long"] * 400, ["short"] * 400,
            np.repeat([("a", "b", "tie", "both_bad")[o] for o in half.outcome], 2).astype(object),
            prompts=np.repeat(np.arange(200), 2),
            style=np.repeat(half.style, 2, axis=0), style_names=["words"],  # type: ignore[arg-type]
        )  # fmt: skip
        fit = fit_style(twice, penalty=0.0)
        scale = float(np.sqrt((twice.style**2).mean()))  # type: ignore[operator]
        (effect,) = fit.effects(("words",), 0.95)
        covered += effect.low < 400 / np.log(10) * 0.5 * scale < effect.high
    assert 0.90 < covered / 200 < 0.99


def test_what_has_no_style_or_no_estimate() -> None:
    a, b, outcomes = columns(0, 3, 50)
    with pytest.raises(DataError, match="no style to control for"):
        fit_style(battle_table(a, b, outcomes))
    swept = battle_table(["x"] * 9, ["y"] * 9, ["a"] * 9, style=[[0.0]] * 9, style_names=["w"])
    with pytest.raises(WorkError, match="no finite estimate"):
        fit_style(swept)
    difference = relative_difference(np.array([30.0, 0.0, 5.0]), np.array([10.0, 0.0, 0.0]))
    assert difference.tolist() == [0.5, 0.0, 1.0]


def test_few_prompts_widen_the_sandwich() -> None:
    """By √(G/(G − 1)) for G prompts of one battle each (Liang and Zeger 1986)."""
    a, b, outcomes = columns(5, 2, 10)
    alone = rate_models(battle_table(a, b, outcomes), bootstrap=0)
    by_prompt = rate_models(battle_table(a, b, outcomes, prompts=range(10)), bootstrap=0)
    wider = [width * (10 / 9) ** 0.5 for width in widths(alone)]
    assert widths(by_prompt) == pytest.approx(wider)


def test_the_cells_of_each_prompt() -> None:
    table = battle_table("abb", "bac", ["a", "a", "tie"], prompts=["q", "p", "p"])
    contents, cells = table.by_prompt()
    ab, bc = 0 * 3 + 1, 1 * 3 + 2  # pairs of models, four outcomes each; "b beat a" is "b" of a, b
    assert cells.tolist() == [4 * ab, 4 * ab + 1, 4 * bc + 2]
    assert contents.toarray().tolist() == [[0, 1, 1], [1, 0, 0]]  # of p and of q


def test_rounds_without_an_estimate_do_not_narrow_the_ranks() -> None:
    ratings = np.array([1020.0, 1010.0, 1000.0])
    drawn = ratings + np.random.default_rng(0).normal(0, 10, (100, 3))
    drawn[:20, 0] = np.nan  # the first model has no rating there; the others have
    largest, spreads = np.zeros(100), {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        deviation = np.abs(drawn[:, i] - drawn[:, j] - (ratings[i] - ratings[j]))
        spreads[i, j] = np.sqrt(np.nanmean(deviation**2))
        largest = np.maximum(largest, np.nan_to_num(deviation / spreads[i, j], nan=np.inf))
    multiple = np.quantile(largest, 0.75, method="higher")
    needed = rank_intervals(ratings, drawn, 0.75).needed
    for (i, j), spread in spreads.items():
        width = multiple * spread
        assert needed[i, j] == pytest.approx((width / (ratings[i] - ratings[j])) ** 2)
