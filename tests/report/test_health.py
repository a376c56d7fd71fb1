"""Remarks on training in the report, and whether likelihood displacement did harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.report.findings.health import Remark, remarks
from accord.report.page import write_report
from accord.report.reading import read_inputs
from accord.report.results import merge_results
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.fake_run import Fake, write_run
from tests.report.test_page import EVIL

DISPLACED = {"about": "likelihood displacement", "level": "note", "text": "The chosen fell."}


def stage_remarks(settings: ReportSettings, name: str) -> list[Remark]:
    inputs = read_inputs(settings)
    (stage,) = [s for s in inputs.stages if s.name == name]
    return remarks(stage, inputs, merge_results(inputs)["models"])


@pytest.mark.parametrize(
    ("reward", "level", "text"),
    [
        (0.8, "note", "Here it did no harm: its true reward is 0.7"),
        (0.1, "warning", "Here the model became worse: its true reward is 0.2"),
    ],
)
def test_the_resulting_model_shows_whether_displacement_did_harm(
    tmp_path: Path, reward: float, level: str, text: str
) -> None:
    models = (Fake("sft", 0.45, 0.0, 0.0), Fake("dpo", reward, 0.9, 3.1))
    run = write_run(tmp_path / "run", models=models, prompts=40)
    write_json_atomic(Path(run.run) / "dpo" / "health.json", [DISPLACED])
    (remark,) = stage_remarks(run, "dpo")
    assert remark.level == level
    assert remark.text.startswith(f"The chosen fell. {text}")


def test_a_training_that_did_not_learn_the_preferences_is_in_the_headline(tmp_path: Path) -> None:
    models = (Fake("sft", 0.45, 0.0, 0.0), Fake("dpo", 0.46, 0.9, 3.1))
    run = write_run(tmp_path / "run", models=models, prompts=40)
    Path(str(run.ratings)).unlink()
    run = run.model_copy(update={"ratings": None})
    evaluation = json.loads(Path(str(run.evaluation)).read_text())
    for model in evaluation["models"]:
        model["true_reward"] = None  # which no real data have
    write_json_atomic(str(run.evaluation), evaluation)
    headline = "The held-out data do not show that dpo learned the preferences."
    assert headline not in write_report(run).read_text()
    unlearned = {"about": "held-out order", "level": "warning", "text": "Half are in order."}
    other = {"about": "length", "level": "warning", "text": "Longer."}
    write_json_atomic(Path(run.run) / "dpo" / "health.json", [other, unlearned])
    page = write_report(run).read_text()
    results = json.loads((Path(run.output_dir) / "results.json").read_text())
    assert results["verdict"]["headline"] == headline
    assert headline in page


def test_remarks_on_the_page_are_escaped(tmp_path: Path) -> None:
    models = (Fake("sft", 0.45, 0.0, 0.0), Fake("dpo", 0.8, 0.9, 3.1))
    run = write_run(tmp_path / "run", models=models, prompts=40)
    path = Path(run.run) / "dpo" / "health.json"
    write_json_atomic(path, [{"about": "length", "level": "warning", "text": f"see {EVIL}"}])
    page = write_report(run).read_text()
    assert "<b>length</b>" in page
    assert EVIL not in page
    path.write_text("not JSON")  # a report does not fail for remarks
    write_report(run)
