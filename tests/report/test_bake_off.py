"""The bake-off's table: its rows, its sentence on compute, and gains over the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.report.page import write_report
from accord.report.reading import read_inputs
from accord.report.results import merge_results
from accord.report.tables.bake_off import BakeOff, bake_offs
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.fake_run import Fake, write_run
from tests.report.test_page import EVIL, Page

MODELS = (
    Fake("sft", 0.45, 0.0, 0.0),
    Fake("dpo", 0.8, 0.9, 3.1),
    Fake("ipo", 0.9, 1.0, 2.1),
    Fake("simpo", 0.7, 0.8, 9.0),
    Fake("best-of-16", 0.86, 1.3, 1.835),
    Fake("ppo", 0.93, 1.8, 8.4),
)


@pytest.fixture
def run(tmp_path: Path) -> ReportSettings:
    return write_run(tmp_path / "run", models=MODELS, prompts=40)


def tables(settings: ReportSettings) -> list[BakeOff]:
    inputs = read_inputs(settings)
    return bake_offs(inputs, merge_results(inputs)["models"])


def set_stage(settings: ReportSettings, name: str, **values: Any) -> None:
    path = Path(settings.run) / name / "stage.json"
    stage = json.loads(path.read_text())
    stage["settings"] |= values
    write_json_atomic(path, stage)


def set_tokens(settings: ReportSettings, name: str, tokens: float) -> None:
    path = Path(settings.run) / name / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {"num_tokens": tokens})
    path.write_text("\n".join(lines) + "\n")


def test_methods_that_learned_the_same_from_the_same_model(run: ReportSettings) -> None:
    (table,) = tables(run)
    # The best first, by true reward; neither SFT, PPO nor a selection is a preference method.
    assert [entrant.model for entrant in table.entrants] == ["ipo", "dpo", "simpo"]
    headings = [heading for heading, _ in table.columns]
    assert headings == ["True reward", "Gain", "KL", "Words", "Rating", "Steps", "Tokens"]
    assert {len(entrant.cells) for entrant in table.entrants} == {7}
    # write_stage: 120 steps of 3,400 tokens.
    assert [cell.text for cell in table.entrants[0].cells[-2:]] == ["120", "408,000"]
    assert table.entrants[0].cells[0].best
    assert not table.entrants[1].cells[0].best
    assert table.sentence == (
        "All start from sft and learn from the same preferences (compare/store.db). "
        "Compute was equal: 408,000 tokens each."
    )


def test_the_gain_is_over_the_model_that_they_started_from(run: ReportSettings) -> None:
    path = Path(str(run.evaluation))
    evaluation = json.loads(path.read_text())
    for row in evaluation["models"]:
        mean = {"sft": 0.4, "dpo": 0.7}.get(row["model"], 0.3)
        row["true_reward"] = {"mean": mean, "low": mean - 0.03, "high": mean + 0.04}
    write_json_atomic(path, evaluation)
    (table,) = tables(run)
    # 0.7 − 0.4; down by √(0.03² + 0.04²) and up by √(0.04² + 0.03²), both 0.05.
    gain = table.entrants[0].cells[1]
    assert (table.entrants[0].model, gain.text, gain.small) == ("dpo", "+0.300", "±0.050")
    assert table.entrants[1].cells[1].text == "−0.100"


def test_unequal_compute_is_reported(run: ReportSettings) -> None:
    set_tokens(run, "dpo", 448_000)
    (table,) = tables(run)
    assert table.sentence.endswith("Compute was equal: 408,000 to 448,000 tokens each.")
    set_tokens(run, "dpo", 612_000)
    (table,) = tables(run)
    # 612,000 / 408,000 = 1.5.
    assert "Compute was not equal: dpo was trained on 612,000 tokens, 1.5 times" in table.sentence
    (Path(run.run) / "dpo" / "metrics.jsonl").unlink()
    (table,) = tables(run)
    assert "is not known for every model" in table.sentence


def test_another_data_set_is_named(run: ReportSettings) -> None:
    set_stage(run, "simpo", dataset="runs/demo/labels/store.db")
    (table,) = tables(run)
    data = {entrant.model: entrant.data for entrant in table.entrants}
    assert data == {"ipo": "", "dpo": "", "simpo": "labels/store.db"}
    assert (
        "(compare/store.db), except simpo, whose data set is named in the table." in table.sentence
    )


def test_no_table_without_two_methods_on_the_same_data(run: ReportSettings) -> None:
    set_stage(run, "simpo", dataset="runs/demo/labels/store.db")
    set_stage(run, "dpo", model="somewhere/else")
    assert tables(run) == []
    assert "Bake-off" not in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"loss_type": "sigmoid"}, "dpo"),
        ({"loss_type": "apo_zero"}, "dpo, apo_zero"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": None}, "dpo, sigmoid + sft"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.1]}, "dpo, sigmoid + 0.1 sft"),
    ],
)
def test_a_loss_that_is_not_the_default_is_named(
    run: ReportSettings, settings: dict[str, Any], name: str
) -> None:
    set_stage(run, "dpo", **settings)
    (table,) = tables(run)
    assert {entrant.model: entrant.method for entrant in table.entrants}["dpo"] == name


def test_without_a_true_reward_the_ratings_order_them(run: ReportSettings) -> None:
    path = Path(str(run.evaluation))
    evaluation = json.loads(path.read_text())
    for row in evaluation["models"]:
        row["true_reward"] = None
    write_json_atomic(path, evaluation)
    (table,) = tables(run)
    assert [heading for heading, _ in table.columns][:4] == ["KL", "Words", "Rating", "Gain"]
    assert dict(table.columns)["Gain"] == "in Elo rating over the model that it started from"


def test_the_page_shows_it_and_escapes(run: ReportSettings) -> None:
    set_stage(run, "ipo", loss_type=EVIL[:90])
    set_stage(run, "simpo", dataset="<b>data</b>/<i>.db")
    source = write_report(run).read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    assert "All start from sft and learn from the same preferences" in page.text
    assert not {tag for tag, _ in page.tags} & {"img", "b", "i"}
    assert "<script>alert" not in source
    assert "<i>.db" in page.text
