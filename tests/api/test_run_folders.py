"""Folders that runs from Python write: one run at a time, and nobody else's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import accord
from accord.cli.entry import run
from accord.errors import LockedError, SettingsError

ROWS = [{"prompt": f"the {i} ", "completion": "cat sat"} for i in range(8)]


def steps(world: Path, folder: Path, **settings: Any) -> Any:
    return accord.steps(
        "sft",
        model=world / "model",
        dataset=ROWS,
        output_dir=folder,
        **{"max_steps": 3, "per_device_train_batch_size": 2, **settings},
    )


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "manifest.json", "stage.json", "checkpoints/a.txt", "episodes/a.txt"]
)
def test_what_a_run_would_replace_is_refused(name: str, tiny_world: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(SettingsError, match=f"{path} would be replaced"):
        steps(tiny_world, tmp_path)
    assert path.read_text() == "precious"


def test_other_files_are_left_alone(tiny_world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    assert len(list(steps(tiny_world, tmp_path))) == 3
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_second_loop_in_a_folder_is_refused_until_the_first_is_closed(
    tiny_world: Path, tmp_path: Path
) -> None:
    first = steps(tiny_world, tmp_path)
    next(first)
    with pytest.raises(LockedError, match="this very process: close the earlier run"):
        steps(tiny_world, tmp_path)
    first.close()
    assert [step.step for step in steps(tiny_world, tmp_path)] == [2, 3]  # it resumes


def test_a_folder_is_that_of_python_or_of_the_command(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "sft", f"model={tiny_world / 'model'}", "max_steps=1"]
    command += [f"dataset={tiny_world / 'demonstrations.jsonl'}"]
    with steps(tiny_world, tmp_path / "python") as loop:
        next(loop)
    before = sorted(p.name for p in (tmp_path / "python").iterdir())
    assert run([*command, f"output_dir={tmp_path / 'python'}"]) == 2
    assert "they are those of a run from Python" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "python").iterdir()) == before
    assert run([*command, f"output_dir={tmp_path / 'command'}"]) == 0
    (tmp_path / "command/model").rename(tmp_path / "moved")
    with pytest.raises(SettingsError, match=r"command/data\.json would be replaced"):
        steps(tiny_world, tmp_path / "command")


@pytest.mark.parametrize("name", ["metrics.jsonl", "settings.json", "model/precious.txt"])
def test_saving_a_run_replaces_no_file(name: str, tiny_world: Path, tmp_path: Path) -> None:
    finished = accord.train(
        "sft", model=tiny_world / "model", dataset=ROWS, max_steps=1, progress=False
    )
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(SettingsError, match=str(tmp_path)):
        finished.save(tmp_path)
    assert path.read_text() == "precious"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
