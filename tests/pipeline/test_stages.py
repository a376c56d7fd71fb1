"""One stage in its folder: what makes it run again, and whose folder it may not take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.errors import SettingsError
from accord.pipeline import run_stage
from accord.settings.recipe import single_stage


@pytest.fixture
def place(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model `m` and rows to learn from."""
    shutil.copytree(tiny_world / "model", tmp_path / "m")
    shutil.copy(tiny_world / "demonstrations.jsonl", tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*overrides: str) -> None:
    given = ["model=m", "dataset=rows.jsonl", "output_dir=out", "max_steps=2", *overrides]
    run_stage(single_stage("train", "sft", overrides=given))


def test_settings_that_change_nothing_learned_run_nothing_again(place: Path) -> None:
    train()
    before = (place / "out/stage.json").read_bytes()
    train("save_steps=1", "logging_steps=2", "save_total_limit=3", "resume=false", "device=cpu")
    assert (place / "out/stage.json").read_bytes() == before
    with pytest.raises(
        SettingsError,
        match=r"out holds a `sft` stage that other settings or inputs made: learning_rate was .*, "
        r"is 0\.5\. Set them back to go on, name another output_dir, or remove the folder",
    ):
        train("learning_rate=0.5")
    assert (place / "out/stage.json").read_bytes() == before


@pytest.mark.parametrize("name", ["m/config.json", "rows.jsonl"])
def test_an_input_that_changed_is_seen(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train()
    (place / name).touch()  # its time alone does not count
    train()
    assert "sft: finished before, not run again\n" in capsys.readouterr().err
    with (place / name).open("a") as file:
        file.write("\n")
    changed = name.split("/")[0]
    with pytest.raises(SettingsError, match=rf"made: {changed} has changed\. Set them back"):
        train()
    inputs = json.loads((place / "out/stage.json").read_text())["inputs"]
    assert sorted(inputs) == ["m", "rows.jsonl"]


def test_a_folder_of_another_stage_is_not_taken(place: Path) -> None:
    train()
    weights = (place / "out/model/model.safetensors").read_bytes()
    sample = ["model=m", "dataset=rows.jsonl", "output_dir=out"]
    with pytest.raises(
        SettingsError,
        match=r"output_dir=out is the folder of the `sft` stage `sft`, which `sample` would "
        r"replace with all that lies in it\. Name another output_dir",
    ):
        run_stage(single_stage("sample", overrides=sample))
    assert (place / "out/model/model.safetensors").read_bytes() == weights


def test_a_report_in_a_stages_folder_leaves_its_record(place: Path) -> None:
    train()
    before = (place / "out/stage.json").read_bytes()
    assert run(["report", "out"]) == 0
    assert (place / "out/report.html").is_file()
    assert (place / "out/stage.json").read_bytes() == before
    train()  # still finished
    assert (place / "out/stage.json").read_bytes() == before
