"""The rounds' table and curves: their columns, their sentence, and the time of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accord.report.figures.rounds import round_curves
from accord.report.page import write_report
from accord.report.rating_results import round_results
from accord.report.reading import read_inputs
from accord.report.results import merge_results
from accord.report.tables.rounds import rounds_table
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings


def lineage(**changes: Any) -> dict[str, Any]:
    rows = [
        {
            "round": number,
            "true_reward": {"mean": 0.4 + 0.1 * number, "low": 0.3 + 0.1 * number, "high": 0.9},
            "reward_model_score": None,
            "win_rate": {"mean": 0.75, "low": 0.6, "high": 0.85} if number else None,
            "kl": {"mean": 1.5 * number, "low": None, "high": None},
            "mean_length": 12.0,
            "finished_share": 0.997,
            "distinct_2": 0.25,
        }
        for number in range(3)
    ]
    content = {"method": "<dpo>", "keep_data": "round", "reference": "moving", "rounds": rows}
    return {**content, **changes}


def test_the_table_has_a_column_for_each_measured_value() -> None:
    table = rounds_table(lineage())
    headings = [column.heading for column in table.columns.values()]
    assert headings == ["True reward", "Wins", "KL", "Words", "Ended", "Distinct-2"]
    assert [name for name, _ in table.rows] == ["0", "1", "2"]
    shown = [cell.text for cell in table.rows[0][1]]
    assert shown == ["0.400", "–", "0.00", "12.0", ">99%", "0.250"]
    assert table.rows[1][1][1].small == "60% to 85%"
    assert "by <dpo> on its own verdicts and the reference is the start of each round" in (
        table.sentence
    )
    sentence = rounds_table(lineage(reference=None, keep_data="all")).sentence
    assert "on all verdicts so far. Round 0" in sentence


def test_rounds_are_rated_or_the_page_says_why_not() -> None:
    rows = [
        {**row, "elo": {"mean": 1000.0 + 50 * row["round"], "low": None, "high": None}}
        for row in lineage()["rounds"]
    ]
    rated = rounds_table(lineage(rounds=rows))
    assert [cells[1].text for _, cells in rated.rows] == ["1,000", "1,050", "1,100"]
    assert "rating" not in rated.sentence
    assert rounds_table(lineage()).sentence.endswith(
        "rounds.json has no ratings: the wins are those of each round's arena."
    )
    alone = [{**row, "win_rate": None} for row in lineage()["rounds"]]
    assert rounds_table(lineage(rounds=alone)).sentence.endswith(
        "No arena was held in these rounds, so they have no ratings."
    )
    (typed,) = round_results({"loop": lineage(rounds=rows)})
    assert (typed["stage"], typed["rated"]) == ("loop", True)
    assert typed["rounds"][2]["round"] == 2
    assert typed["rounds"][2]["measures"]["elo"]["mean"] == 1100.0
    assert typed["rounds"][0]["measures"]["win_rate"] is None
    assert not round_results({"loop": lineage(rounds=alone)})[0]["rated"]


def test_a_curve_needs_two_rounds() -> None:
    curves = round_curves(lineage()["rounds"], "rounds0")
    assert [curve.title for curve in curves] == [
        "True reward",
        "Wins",
        "KL",
        "Words",
        "Ended",
        "Distinct-2",
    ]
    assert [c.title for c in round_curves(lineage()["rounds"][:2], "r") if c.title == "Wins"] == []
    assert round_curves(lineage()["rounds"][:1], "r") == []


def test_the_page_shows_rounds_escaped_and_counts_their_time_once(tmp_path: Path) -> None:
    folder = tmp_path / "run/iterate"
    for path, kind, seconds in (
        (folder, "iterate", 10.0),
        (folder / "round-1/train", "train", 7.0),
        (tmp_path / "run/world", "world", 2.0),
    ):
        stage = {"stage": kind, "name": path.name, "settings": {}, "seconds": seconds}
        write_json_atomic(path / "stage.json", stage)
    write_json_atomic(folder / "rounds.json", lineage())
    settings = ReportSettings(run=str(tmp_path / "run"), output_dir=str(tmp_path / "run"))
    assert merge_results(read_inputs(settings))["run"]["seconds"] == 12.0
    page = write_report(settings).read_text()
    assert "<h2>Rounds</h2>" in page
    assert "trains by &lt;dpo&gt; on its own verdicts" in page
    assert "<dpo>" not in page
    assert page.count(' by round"') == 6
