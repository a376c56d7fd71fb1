"""results.json: rows merged from two files, and the facts of a run read from disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.errors import DataError
from accord.report.page import write_report
from accord.report.reading import read_inputs
from accord.report.results import merge_results, terminal_table, terminal_verdict
from accord.report.tables.models import win_table
from accord.runs import write_json_atomic
from accord.settings.stages import Contestant, ReportSettings

KEYS = (
    "model true_reward true_reward_low true_reward_high reward_model_score kl elo elo_low elo_high "
    "mean_length distinct_2 duplicate_share refusal_harmful refusal_safe refusal_jailbreak seconds"
).split()


def merged(settings: ReportSettings) -> dict[str, Any]:
    return merge_results(read_inputs(settings))


def test_rows_have_the_promised_keys(finished_run: ReportSettings) -> None:
    write_report(finished_run)
    results = merged(finished_run)
    written = json.loads((Path(finished_run.output_dir) / "results.json").read_text())
    assert written.pop("verdict")["headline"] == "ppo is the best model."
    assert written == results
    assert [row["model"] for row in results["models"]] == [c.name for c in finished_run.contestants]
    for row in results["models"]:
        assert set(KEYS) <= set(row)
    evaluation = json.loads(Path(str(finished_run.evaluation)).read_text())
    ratings = json.loads(Path(str(finished_run.ratings)).read_text())
    ppo = next(row for row in results["models"] if row["model"] == "ppo")
    evaluated = next(row for row in evaluation["models"] if row["model"] == "ppo")
    rated = next(row for row in ratings["models"] if row["model"] == "ppo")
    assert ppo["true_reward"] == evaluated["true_reward"]["mean"]
    assert ppo["true_reward_low"] == evaluated["true_reward"]["low"]
    assert (ppo["elo"], ppo["elo_low"]) == (rated["rating"], rated["low"])
    stage = json.loads((Path(finished_run.run) / "ppo" / "stage.json").read_text())
    assert ppo["seconds"] == stage["seconds"]
    assert results["run"]["command"] == "accord demo --output-dir runs/demo"
    assert results["run"]["version"] == "0.1.0"
    assert results["run"]["seed"] == 0
    assert results["run"]["date"] == "2025-03-01T12:00:00+00:00"
    assert results["run"]["seconds"] > 80
    assert any("Regularised on request" in note for note in results["notes"])


def test_files_that_the_settings_leave_out_are_searched_for(
    finished_run: ReportSettings, tmp_path: Path
) -> None:
    """As in `accord report RUN`, which names only the folder."""
    write_json_atomic(
        Path(finished_run.run) / "evaluate" / "stage.json",
        {
            "stage": "evaluate",
            "name": "evaluate",
            "settings": {"contestants": [c.model_dump() for c in finished_run.contestants]},
        },
    )
    bare = ReportSettings(run=finished_run.run, output_dir=str(tmp_path))
    assert merged(bare)["models"] == merged(finished_run)["models"]


def test_a_model_in_only_one_of_the_files_has_a_row(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "evaluation.json", {"models": [{"model": "a", "mean_length": 3}]})
    write_json_atomic(
        tmp_path / "ratings.json",
        {"models": [{"model": "b", "rating": None, "low": None, "high": None}], "notes": ["n"]},
    )
    results = merged(ReportSettings(run=str(tmp_path), output_dir=str(tmp_path / "out")))
    first, second = results["models"]
    assert (first["model"], first["mean_length"], first["elo"]) == ("a", 3, None)
    assert (second["model"], second["elo"], second["true_reward"]) == ("b", None, None)
    assert results["reward_model"] is None
    assert results["notes"] == ["n"]


def test_missing_and_broken_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no run at .*nowhere' \(key `run`\)"):
        merged(ReportSettings(run=str(tmp_path / "nowhere"), output_dir=str(tmp_path)))
    with pytest.raises(DataError, match="There is nothing to report in"):
        merged(ReportSettings(run=str(tmp_path), output_dir=str(tmp_path)))
    with pytest.raises(DataError, match=r"no file 'e\.json' \(key `evaluation`\)\. Run the stage"):
        merged(ReportSettings(run=str(tmp_path), output_dir=str(tmp_path), evaluation="e.json"))
    with pytest.raises(DataError, match=r"no file 'r\.jsonl' \(key `contestants\.m\.responses`\)"):
        merged(
            ReportSettings(
                run=str(tmp_path),
                output_dir=str(tmp_path),
                contestants=[Contestant(name="m", responses="r.jsonl")],
            )
        )
    broken = tmp_path / "ratings.json"
    broken.write_text("{")
    with pytest.raises(DataError, match=r"ratings\.json can't be read as JSON"):
        merged(ReportSettings(run=str(tmp_path), output_dir=str(tmp_path)))
    broken.write_text("[]")
    with pytest.raises(DataError, match=r"ratings\.json holds no JSON object"):
        merged(ReportSettings(run=str(tmp_path), output_dir=str(tmp_path)))


def table_text(rows: list[dict[str, object]]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(terminal_table({"models": rows}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_fits_a_terminal_and_leaves_out_empty_columns(
    finished_run: ReportSettings,
) -> None:
    full = table_text(merged(finished_run)["models"])
    assert max(len(line.rstrip()) for line in full.splitlines()) <= 80
    assert "ppo-hacked" in full
    assert "refuses" in full
    bare = table_text([{"model": "m", "elo": 1000.0, "elo_low": 990.0, "elo_high": 1010.0}])
    assert "1,000 ±10" in bare
    assert "KL" not in bare
    assert "[red]x[/red]" in table_text([{"model": "[red]x[/red]", "elo": 1.0}])


def test_win_rates_have_exact_intervals_and_a_colour_only_beyond_even() -> None:
    pair = {"a": "x", "b": "y", "wins_a": 15, "wins_b": 5, "ties": 0, "both_bad": 0}
    ratings = {"models": [{"model": "x"}, {"model": "y"}], "pairs": [pair]}
    table = win_table(ratings)
    assert table is not None
    cell = table.cells[0][1]
    assert cell is not None
    # 15 of 20 by Clopper and Pearson: 50.9% to 91.3% (tables).
    assert (cell.text, cell.interval, cell.shade) == ("75%", "51–91", 8)
    table = win_table({**ratings, "pairs": [{**pair, "wins_a": 14, "wins_b": 6}]})
    assert table is not None
    cell = table.cells[0][1]
    assert cell is not None
    assert (cell.text, cell.interval, cell.shade) == ("70%", "46–88", 5)
    # By prompt the interval is wider, from either side, and the test is told.
    rate = {"mean": 0.25, "low": 0.04, "high": 0.61}
    compared = {"a": "y", "b": "x", "rate": rate, "prompts": 7, "holm_p": 0.0312}
    table = win_table({**ratings, "comparisons": [compared]})
    assert table is not None
    cell, other = table.cells[0][1], table.cells[1][0]
    assert cell is not None
    assert other is not None
    assert (cell.text, cell.interval, cell.shade) == ("75%", "39–96", 5)
    assert (other.text, other.interval, other.shade) == ("25%", "4–61", 5)
    assert cell.detail.endswith("0 tied on 7 prompts; p = 0.031 (permutation, Holm)")


def test_the_terminal_has_the_headline_and_the_warnings() -> None:
    warning = {"level": "warning", "text": "The judge is circular: \x1b[31mred"}
    good = {"level": "good", "text": "fine"}
    verdict = {"headline": "m is rated best, but by r.", "findings": [warning, good]}
    lines = [text.plain for text in terminal_verdict({"verdict": verdict})]
    assert lines == ["m is rated best, but by r.", "Warning: The judge is circular: \ufffd[31mred"]
    assert terminal_verdict({"models": []}) == []  # of an earlier version
