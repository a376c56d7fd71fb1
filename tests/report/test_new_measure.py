"""The table of measures: consistent, and one more row is enough for a new measure."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from accord.measure import measures
from accord.measure.measures import MEASURES, ORDERS, Column, Measure
from accord.pipeline.stages.lineage import Round, lineage
from accord.report.figures.rounds import round_curves
from accord.report.page import write_report
from accord.report.results import terminal_table
from accord.report.tables.rounds import rounds_table, terminal_rounds_table
from accord.runs import write_json_atomic
from accord.settings.iterate import IterateSettings
from tests.report.fake_run import MODELS, write_run

VOWELS = Measure(
    "vowels",
    lambda data: data.mean(
        [[float(sum(map(text.count, "aeiou"))) for text in row] for row in data.responses.texts]
    ),
    interval=True,
    models=Column("Vowels", "mean vowels in a response", 1, direction=1),
    rounds=Column("Vowels", "mean vowels in a response", 1),
    terminal=Column("\nvowels", digits=1),
)


@pytest.fixture
def vowels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more row in the table, and no other change."""
    monkeypatch.setattr(measures, "MEASURES", (*MEASURES, VOWELS))


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_keys_are_unique_and_orders_name_measures_with_a_column() -> None:
    keys = [measure.key for measure in MEASURES]
    assert len(keys) == len(set(keys))
    for measure in MEASURES:
        # A value has one source: the responses, ratings.json, or the arena of a round.
        assert measure.compute is None or measure.rating is None
        assert measure.compute or measure.rating or measure.rounds
    by_key = {measure.key: measure for measure in MEASURES}
    assert {m.key for m in MEASURES if m.in_results} == set(ORDERS["results"])
    for table in ("models", "rounds", "terminal"):
        shown = {key for key in by_key if getattr(by_key[key], table) is not None}
        assert set(ORDERS[table]) <= shown


def test_columns_of_a_group_are_neighbours() -> None:
    for columns in (measures.table_columns("models"), measures.table_columns("terminal")):
        groups = [column.group for column in columns.values() if column.group]
        changes = [a for a, b in zip(groups, ["", *groups], strict=False) if a != b]
        assert len(changes) == len(set(groups))


@pytest.mark.usefixtures("vowels")
def test_a_new_row_is_in_both_files_the_page_and_the_terminal(tmp_path: Path) -> None:
    settings = write_run(tmp_path / "run", models=MODELS[:3], prompts=10)
    page = write_report(settings).read_text(encoding="utf-8")
    evaluation = json.loads(Path(str(settings.evaluation)).read_text())
    results = json.loads((tmp_path / "run/results.json").read_text())
    for evaluated, row in zip(evaluation["models"], results["models"], strict=True):
        mean, low, high = (evaluated["vowels"][end] for end in ("mean", "low", "high"))
        assert low < mean < high
        assert (row["vowels"], row["vowels_low"], row["vowels_high"]) == (mean, low, high)
        assert f">{mean:.1f}<small>" in page
    assert 'title="mean vowels in a response">Vowels</th>' in page
    best = max(row["vowels"] for row in results["models"])
    assert f'<td class="num best">{best:.1f}<small>' in page
    text = printed(terminal_table(results))
    assert "vowels" in text
    assert f"{best:.1f} ±" in text


@pytest.mark.usefixtures("vowels")
def test_a_new_row_is_in_the_rounds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=MODELS[:2], prompts=10)
    evaluated = json.loads(Path(str(run.evaluation)).read_text())["models"][0]
    write_json_atomic(tmp_path / "round-0/evaluate/evaluation.json", {"models": [evaluated]})
    (tmp_path / "round-0/answers").mkdir()
    (tmp_path / "run/answers-base/responses.jsonl").rename(
        tmp_path / "round-0/answers/responses.jsonl"
    )
    settings = IterateSettings(model="m", dataset="d", output_dir="o")
    content = lineage(settings, [Round(0, tmp_path / "round-0", "m", "m", ())])
    (row,) = content["rounds"]
    assert row["vowels"] == evaluated["vowels"]
    headings = [column.heading for column in rounds_table(content).columns.values()]
    assert headings == [
        "True reward", "Score", "KL", "Words", "Ended", "Distinct-2", "Vowels",
    ]  # fmt: skip
    assert "vowels" in printed(terminal_rounds_table(content))
    curves = round_curves([row, {**row, "round": 1}], "rounds0")
    assert "Vowels" in [curve.title for curve in curves]
