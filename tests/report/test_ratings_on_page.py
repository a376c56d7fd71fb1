"""What the battles say beyond a rating for each model: tables, a figure, findings, results.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from accord.measure.ratings.document import rating_document
from accord.measure.ratings.rate import rate_models
from accord.measure.ratings.table import battle_table
from accord.report.findings.ratings import rating_findings
from accord.report.page import write_report
from accord.report.rating_results import RatingsJson, rating_results
from accord.report.schema import Results
from accord.report.tables.ratings import SHOWN, RatingTable, rating_tables
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.test_page import EVIL, Page

INTERVAL = {"mean": 0.5, "low": 0.42, "high": 0.58}
EMPTY: dict[str, Any] = rating_results({}) or {}


def length_row(**changes: Any) -> dict[str, Any]:
    row = {
        "model": "long",
        "baseline": "base",
        "battles": 1200,
        "raw": 0.74,
        "rate": INTERVAL,
        "length_effect": 1.5,
        "note": "",
    }
    return {**row, **changes}


def compared(a: str, b: str, low: float, high: float) -> dict[str, Any]:
    return {"a": a, "b": b, "rate": {"mean": (low + high) / 2, "low": low, "high": high}}


def unclear(count: int) -> list[dict[str, Any]]:
    return [
        {"better": f"a{i}", "worse": f"b{i}", "elo_difference": 9.6, "more_battles": 1200 + i}
        for i in range(count)
    ]


def test_the_anchor_has_no_interval() -> None:
    row = {"model": "sft", "rating": 1000.0, "low": 1000.0, "high": 1000.0, "change": 0.0}
    ((cell, _),) = (r.cells for r in table(style={"effects": [], "models": [row]}).rows)
    assert (cell.text, cell.small) == ("1,000", "")


def moments(*ratings: float) -> list[dict[str, Any]]:
    return [
        {"model": f"dpo@{100 * i}", "number": 100 * i, "rating": r, "low": r - 10, "high": None}
        for i, r in enumerate(ratings, 1)
    ]


def table(**parts: Any) -> RatingTable:
    (result,) = rating_tables({**EMPTY, **parts})
    return result


def texts(result: RatingTable) -> list[list[str]]:
    return [[*row.names, *(c.text for c in row.cells)] for row in (*result.rows, *result.folded)]


def test_win_rates_at_equal_length_stand_beside_the_raw_ones() -> None:
    rows = [length_row(), length_row(model="all", raw=1.0, rate=None, note="won every battle")]
    result = table(length_controlled=rows)
    # 50% less 74% is 24 points.
    assert texts(result) == [
        ["long", "74%", "50%", "−24", "1,200"],
        ["all", "100%", "–", "–", "1,200"],
    ]
    assert result.rows[0].cells[1].small == "42% to 58%"
    assert result.notes == ("all won every battle.",)
    assert "beats base" in result.caption


def test_categories_are_rows_with_the_best_marked_and_shrunk_ratings_in_parentheses() -> None:
    def rated(model: str, rating: float, weight: float) -> dict[str, Any]:
        bounds = {"low": rating - 20, "high": rating + 20}
        return {"model": model, "rating": rating, **bounds, "battles": 9, "weight": weight}

    rows = [
        {"category": "few", "battles": 9, "models": [rated("b", 1010, 0.2)], "note": "so few"},
        {
            "category": "more",
            "battles": 90,
            "models": [rated("a", 1040, 0.9), rated("b", 960, 0.5)],
            "note": "",
        },
    ]
    result = table(categories=rows, category_spread=31.4)
    assert [heading for heading, _ in result.columns] == ["Battles", "b", "a"]
    assert texts(result) == [["more", "90", "960", "1,040"], ["few", "9", "(1,010)", "–"]]
    assert [cell.best for cell in result.rows[0].cells] == [False, False, True]
    assert result.rows[0].cells[2].small == "1,020 to 1,060"
    assert "about 31 points" in result.caption
    assert result.notes == ("few: so few.",)


def test_a_run_shows_each_change_and_an_open_end() -> None:
    result = table(runs=[{"run": "dpo", "unit": "step", "moments": moments(1000, 1042.4, 1030)}])
    assert result.title == "Ratings of dpo by step"
    assert texts(result) == [
        ["100", "1,000", ""],
        ["200", "1,042", "+42"],
        ["300", "1,030", "−12"],
    ]
    assert result.rows[0].cells[0].small == "above 990"


def test_what_is_long_is_folded_and_what_the_file_lacks_is_counted() -> None:
    result = table(not_distinguished=unclear(SHOWN + 2), not_distinguished_pairs=SHOWN + 7)
    assert len(result.rows) == SHOWN
    assert len(result.folded) == 2
    assert result.notes == ("5 more pairs are not listed.",)
    assert texts(result)[0] == ["a0", "b0", "10", "1,200"]
    one_more = table(not_distinguished=unclear(SHOWN + 1), not_distinguished_pairs=SHOWN + 1)
    assert (len(one_more.rows), one_more.folded, one_more.notes) == (SHOWN + 1, (), ())
    equal = {**unclear(1)[0], "more_battles": None}
    assert texts(table(not_distinguished=[equal], not_distinguished_pairs=1))[0][-1] == (
        "equal so far"
    )


def test_next_pairs_have_a_gain_or_join_groups() -> None:
    pair = {"a": "x", "b": "y", "variance_removed": 0.0123}
    assert texts(table(next_pairs=[pair])) == [["x", "y", "−1.23%"]]
    joining = table(next_pairs=[{**pair, "variance_removed": None}])
    assert texts(joining) == [["x", "y"]]
    assert "no common scale" in joining.caption


@pytest.mark.parametrize(
    ("row", "pair", "warned"),
    [
        (length_row(), compared("long", "base", 0.7, 0.78), True),
        (length_row(), compared("base", "long", 0.22, 0.3), True),
        (length_row(), compared("base", "long", 0.22, 0.51), False),  # no sure lead at all
        (
            length_row(rate={"mean": 0.6, "low": 0.52, "high": 0.68}),
            compared("long", "base", 0.7, 0.78),
            False,
        ),
        (length_row(note="equal lengths"), compared("long", "base", 0.7, 0.78), False),
        (length_row(), compared("long", "other", 0.7, 0.78), False),
    ],
)
def test_a_lead_that_length_explains_is_a_warning(
    row: dict[str, Any], pair: dict[str, Any], warned: bool
) -> None:
    found = rating_findings({**EMPTY, "length_controlled": [row], "comparisons": [pair]})
    assert [finding.level for finding in found] == ["warning"] * warned
    if warned:
        assert found[0].text == (
            "long beats base in 74% of their battles, but at equal length in 50% (42% to 58%): its "
            "lead may be its length."
        )


def test_models_that_are_not_distinguished_are_a_note_with_what_it_takes() -> None:
    def note(pairs: list[dict[str, Any]], count: int) -> str:
        parts = {"not_distinguished": pairs, "not_distinguished_pairs": count}
        (finding,) = rating_findings({**EMPTY, **parts})
        assert finding.level == "note"
        return finding.text

    assert note(unclear(1), 1) == (
        "The battles do not distinguish 1 pair of models, a0 and b0: 1,200 more battles would."
    )
    assert note(unclear(3), 300).startswith(
        "The battles do not distinguish 300 pairs of models; the fewest more would do between a0 "
        "and b0: 1,200 battles."
    )
    assert note([{**unclear(1)[0], "more_battles": None}], 1).endswith("1 pair of models.")
    assert rating_findings(EMPTY) == []
    assert rating_findings(None) == []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any]]:
    """The page and results.json of battles with lengths and categories among five checkpoints, one
    of them with a name that would run."""
    run = tmp_path_factory.mktemp("ratings") / "run"
    names = ["dpo@100", "dpo@200", "dpo@300", "base", EVIL[:40]]
    rows = [
        (*(names[i], names[j])[:: 1 - 2 * (k % 2)], "a" if (i + k) % 3 else "b", f"kind{k % 3}", k)
        for k in range(24)
        for i in range(5)
        for j in range(i)
    ]
    a, b, outcomes, categories, prompts = zip(*rows, strict=True)
    lengths = [(10 + k % 5, 12 + k % 3) for _, _, _, _, k in rows]
    columns = battle_table(a, b, outcomes, categories=categories, prompts=prompts)
    battles = replace(columns, lengths=np.array(lengths, dtype=float))
    ratings = rate_models(battles, bootstrap=20)
    document = rating_document(battles, ratings, positions=True)
    write_json_atomic(run / "arena/ratings.json", document.to_json())
    settings = ReportSettings(run=str(run), output_dir=str(run))
    page = Page(write_report(settings).read_text(encoding="utf-8"))
    return page, json.loads((run / "results.json").read_text())


def test_the_page_has_every_table_without_running_a_name(
    written: tuple[Page, dict[str, Any]],
) -> None:
    page, _ = written
    assert page.open == []
    for part in (
        "What the battles say",
        "Of two equally strong models the first shown wins",
        "At equal length",
        "By category",
        "Ratings of dpo by step",
        "Which models the battles do not distinguish",
        "Which battles to hold next",
    ):
        assert part in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert any(a.get("aria-label") == "Ratings by step" for t, a in page.tags if t == "svg")


def test_results_json_has_them_typed(written: tuple[Page, dict[str, Any]]) -> None:
    _, results = written
    TypeAdapter(Results).validate_python(results, strict=True, extra="forbid")
    ratings = results["ratings"]
    assert [m["number"] for m in ratings["runs"][0]["moments"]] == [100, 200, 300]
    assert {row["category"] for row in ratings["categories"]} == {"kind0", "kind1", "kind2"}
    assert len(ratings["length_controlled"]) == 4
    assert ratings["not_distinguished_pairs"] == len(ratings["not_distinguished"]) > 0


def test_a_file_of_an_earlier_version_gives_empty_parts(tmp_path: Path) -> None:
    assert rating_results(None) is None
    TypeAdapter(RatingsJson).validate_python(EMPTY, strict=True, extra="forbid")
    old = rating_results({"not_distinguished": unclear(2)}) or {}
    assert old["not_distinguished_pairs"] == 2
    assert rating_tables(EMPTY) == []
