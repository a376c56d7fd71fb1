"""The probe as a stage of a recipe: planned, run once, resumed, and read by the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.errors import SettingsError
from accord.pipeline import run_recipe, run_stage
from accord.settings.recipe import load_recipe, single_stage

RECIPE = """
output_dir: out
stages:
  - stage: probe
    preferences: pairs.jsonl
    rewards: [{kind: length, at_most: 3}]
    probes: [blanks, lengthened]
  - stage: report
    run: $run
    output_dir: $run
"""
ROWS = [{"prompt": f"say {n}", "chosen": "a b", "rejected": "a b c d e f"} for n in range(8)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("recipe.yaml").write_text(RECIPE)


def test_a_recipe_probes_and_reports() -> None:
    run_recipe(load_recipe("recipe.yaml"))
    document = json.loads(Path("out/probe/probe.json").read_text())
    (accuracy,) = (a for a in document["audits"] if a["name"] == "accuracy")
    assert accuracy["value"]["mean"] == 1.0
    assert json.loads(Path("out/probe/stage.json").read_text())["finished"]
    results = json.loads(Path("out/results.json").read_text())
    assert [d["kind"] for d in results["audits"]] == ["probe"]
    assert "Probe of the reward" in Path("out/report.html").read_text()
    written = Path("out/probe/probe.json").stat().st_mtime_ns
    run_recipe(load_recipe("recipe.yaml"))
    assert Path("out/probe/probe.json").stat().st_mtime_ns == written


def test_scores_that_were_paid_for_are_not_removed() -> None:
    values = ["preferences=pairs.jsonl", "rewards=[{kind: length, at_most: 3}]", "output_dir=o"]
    run_stage(single_stage("probe", None, overrides=[*values, "probes=[blanks]"]))
    log = Path("o/scores.jsonl").read_bytes()
    stage = json.loads(Path("o/stage.json").read_text())
    Path("o/stage.json").write_text(json.dumps({**stage, "finished": None}))
    with pytest.raises(SettingsError, match="other settings or inputs"):
        run_stage(single_stage("probe", None, overrides=[*values, "probes=[repeated]"]))
    assert Path("o/scores.jsonl").read_bytes() == log
