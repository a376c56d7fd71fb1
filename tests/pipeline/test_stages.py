"""One stage in its folder: what makes it run again, and which folders it must not replace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.errors import SettingsError
from accord.pipeline import run_stage
from accord.pipeline.stages.kinds import STAGES
from accord.settings import stage_kinds
from accord.settings.recipe import single_stage


def test_every_kind_of_stage_with_settings_can_be_run() -> None:
    assert list(STAGES) == list(stage_kinds.STAGE_SETTINGS)


@pytest.fixture
def workspace(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model `m` and rows to learn from."""
    shutil.copytree(tiny_world / "model", tmp_path / "m")
    shutil.copy(tiny_world / "demonstrations.jsonl", tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*overrides: str) -> None:
    shared = ["model=m", "dataset=rows.jsonl", "output_dir=out", "max_steps=2"]
    run_stage(single_stage("train", "sft", overrides=[*shared, *overrides]))


def test_settings_that_do_not_change_the_result_run_nothing_again(workspace: Path) -> None:
    train()
    before = (workspace / "out/stage.json").read_bytes()
    train("save_steps=1", "logging_steps=2", "save_total_limit=3", "resume=false", "device=cpu")
    assert (workspace / "out/stage.json").read_bytes() == before
    with pytest.raises(
        SettingsError,
        match=r"out holds a `sft` stage that other settings or inputs made: learning_rate was .*, "
        r"is 0\.5\. Set them back to resume it, name another output_dir, or remove the folder",
    ):
        train("learning_rate=0.5")
    assert (workspace / "out/stage.json").read_bytes() == before


@pytest.mark.parametrize("name", ["m/config.json", "rows.jsonl"])
def test_a_changed_input_is_detected(
    workspace: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train()
    (workspace / name).touch()  # its time alone does not count
    train()
    assert "sft: finished before, not run again\n" in capsys.readouterr().err
    with (workspace / name).open("a") as file:
        file.write("\n")
    changed = name.split("/")[0]
    with pytest.raises(SettingsError, match=rf"made: {changed} has changed\. Set them back"):
        train()
    inputs = json.loads((workspace / "out/stage.json").read_text())["inputs"]
    assert sorted(inputs) == ["m", "rows.jsonl"]


def test_the_folder_of_another_stage_is_not_replaced(workspace: Path) -> None:
    train()
    weights = (workspace / "out/model/model.safetensors").read_bytes()
    sample = ["model=m", "dataset=rows.jsonl", "output_dir=out"]
    with pytest.raises(
        SettingsError,
        match=r"output_dir=out is the folder of the `sft` stage `sft`, which `sample` would "
        r"replace with all that lies in it\. Name another output_dir",
    ):
        run_stage(single_stage("sample", overrides=sample))
    assert (workspace / "out/model/model.safetensors").read_bytes() == weights


def test_a_report_in_the_folder_of_a_stage_leaves_its_record(workspace: Path) -> None:
    train()
    before = (workspace / "out/stage.json").read_bytes()
    assert run(["report", "out"]) == 0
    assert (workspace / "out/report.html").is_file()
    assert (workspace / "out/stage.json").read_bytes() == before
    train()  # still finished
    assert (workspace / "out/stage.json").read_bytes() == before


def test_a_report_is_written_again_as_it_was(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "a", "meta": {}, "model": "m", "settings": {}, "responses": [{"text": "b"}]}
    (workspace / "answers.jsonl").write_text(json.dumps(row) + "\n")
    contestants = "contestants=[{name: dpo, responses: answers.jsonl}]"
    assert run(["report", "run=runs", "output_dir=runs", contestants]) == 0
    page = (workspace / "runs/report.html").read_bytes()
    assert run(["report", str(workspace / "runs")]) == 0  # as short as the documents say
    assert "finished before, not run again" in capsys.readouterr().err
    assert run(["report", "runs", "examples=3"]) == 2
    message = capsys.readouterr().err
    assert "examples was 12, is 3" in message
    assert "remove" not in message  # the folder is that of a whole run
    assert (workspace / "runs/report.html").read_bytes() == page
    assert run(["report", "runs", "examples=3", "output_dir=other"]) == 0
    assert b"dpo" in (workspace / "other/report.html").read_bytes()
