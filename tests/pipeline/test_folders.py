"""Files that accord did not write are neither replaced nor removed, whichever stage runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from accord.errors import AccordError, LockedError, SettingsError
from accord.pipeline import run_recipe, run_stage
from accord.pipeline.identity import stage_folder
from accord.pipeline.outputs import OUTPUTS
from accord.runs import lock_folder
from accord.runs.lock import LOCK_FILE
from accord.settings.recipe import load_recipe, single_stage
from tests.pipeline.conftest import tiny

PRECIOUS = "years of work"


@pytest.fixture
def workspace(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model `m`, rows to learn from, and responses."""
    shutil.copytree(tiny_world / "model", tmp_path / "m")
    shutil.copy(tiny_world / "demonstrations.jsonl", tmp_path / "rows.jsonl")
    answers = [{"text": "a b", "tokens": 2}, {"text": "c", "tokens": 1}]
    row = {"prompt": "Hi", "model": "x", "responses": answers}
    (tmp_path / "responses.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TINY = "{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}"
LENGTH = "[{kind: length, at_most: 9}]"
CONTESTANTS = "contestants=[{name: a, responses: responses.jsonl}]"
SETTINGS: dict[str, tuple[str, ...]] = {
    "world": ("train_prompts=9", "test_prompts=5", "demonstrations=9", "corpus=5"),
    "scratch": ("dataset=rows.jsonl", "vocab_size=400", f"config={TINY}"),
    "split": ("dataset=rows.jsonl",),
    "train": ("model=m", "dataset=rows.jsonl", "max_steps=2"),
    "sample": ("model=m", "dataset=rows.jsonl", "max_prompts=2", "max_new_tokens=2"),
    "compare": ("responses=[responses.jsonl]",),
    "select": (
        "responses=responses.jsonl",
        "n=2",
        "model_name=b",
        "rewards=[{kind: length, at_most: 9}]",
    ),
    "revise": ("responses=[responses.jsonl]", "reviser={kind: local, model: m}"),
    "iterate": ("model=m", "dataset=rows.jsonl"),
    "arena": (CONTESTANTS,),
    "evaluate": (CONTESTANTS, "reference=m"),
    "audit": ("responses=responses.jsonl", "before_responses=responses.jsonl"),
    "probe": ("preferences=rows.jsonl", f"rewards={LENGTH}"),
    "curve": ("responses=responses.jsonl", f"rewards={LENGTH}"),
    "redteam": ("model=m", "suites=[rows.jsonl]", "harmful=[rows.jsonl]"),
    "report": ("run=.",),
}


def start(kind: str, *overrides: str, output_dir: str = "out") -> None:
    values = (f"output_dir={output_dir}", *SETTINGS[kind], *overrides)
    last = {value.partition("=")[0]: value for value in values}
    method = "sft" if kind == "train" else None
    run_stage(single_stage(kind, method, overrides=list(last.values())))


def train(*overrides: str, output_dir: str = "out") -> None:
    start("train", *overrides, output_dir=output_dir)


def contents(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(LOCK_FILE)
    }


@pytest.mark.parametrize("kind", OUTPUTS)
def test_what_a_stage_would_replace_is_refused_before_it_starts(kind: str, workspace: Path) -> None:
    for number, pattern in enumerate(OUTPUTS[kind]):
        name = pattern.replace("*", "1")
        folder = workspace / f"out{number}"
        for path in (folder / name / "deep/precious.txt", folder.with_name("file") / name):
            path.parent.mkdir(parents=True)
            path.write_text(PRECIOUS)
            output = path.parents[path.parts[::-1].index(name)]
            with pytest.raises(
                SettingsError, match=rf"would replace {path}, and accord has no record"
            ):
                start(kind, output_dir=str(output))
            assert contents(output) == {path.relative_to(output).as_posix(): PRECIOUS}
            shutil.rmtree(output)


def test_a_link_in_the_way_is_refused_also_where_it_is_broken(workspace: Path) -> None:
    (workspace / "out").mkdir()
    link = workspace / "out/model"
    for target in ("m", "missing"):
        link.symlink_to(workspace / target)
        with pytest.raises(SettingsError, match=r"would replace .*out/model"):
            train()
        link.unlink()
    assert (workspace / "m/config.json").is_file()


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"build": "release"}'])
def test_a_stage_json_of_something_else_is_refused(workspace: Path, content: str) -> None:
    (workspace / "out").mkdir()
    (workspace / "out/stage.json").write_text(content)
    with pytest.raises(SettingsError, match=r"would replace out/stage\.json"):
        train()
    assert contents(workspace / "out") == {"stage.json": content}


def test_other_files_are_left_alone_by_a_first_and_a_second_run(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = workspace / "r.yaml"
    recipe.write_text(
        "output_dir: run\nstages:\n- {stage: train, method: sft, model: m, dataset: rows.jsonl, "
        "max_steps: 1}"
    )
    (workspace / "run/sft/plots").mkdir(parents=True)
    (workspace / "run/sft/plots/model").write_text(PRECIOUS)
    (workspace / "run/sft/notes.txt").write_text(PRECIOUS)
    run_recipe(load_recipe(recipe))
    run_recipe(load_recipe(recipe, ["sft.max_steps=2"]))
    assert (workspace / "run/sft/plots/model").read_text() == PRECIOUS
    assert (workspace / "run/sft/notes.txt").read_text() == PRECIOUS
    shown = " ".join(capsys.readouterr().err.split())
    assert "runs again from the start (notes.txt, plots in run/sft left as it is)" in shown
    assert len((workspace / "run/sft/metrics.jsonl").read_text().splitlines()) == 2
    # Added to what accord wrote: a second run would remove it.
    (workspace / "run/sft/model/model.gguf").write_text(PRECIOUS)
    with pytest.raises(SettingsError, match=r"would replace run/sft/model/model\.gguf, and it was"):
        run_recipe(load_recipe(recipe, ["sft.max_steps=1"]))
    assert (workspace / "run/sft/model/model.gguf").read_text() == PRECIOUS


def test_a_stopped_run_does_not_replace_what_was_put_in_its_way(workspace: Path) -> None:
    train()
    record = json.loads((workspace / "out/stage.json").read_text())
    (workspace / "out/stage.json").write_text(json.dumps({**record, "finished": None}))
    (workspace / "out/model/precious.txt").write_text(PRECIOUS)
    with pytest.raises(SettingsError, match=r"would replace out/model/precious\.txt, and it was"):
        train()
    (workspace / "out/model/precious.txt").unlink()
    train()  # it had been killed after its model was written
    assert json.loads((workspace / "out/stage.json").read_text())["finished"]


def test_a_link_to_an_output_is_removed_and_not_its_target(workspace: Path) -> None:
    recipe = workspace / "r.yaml"
    recipe.write_text("output_dir: run\nstages:\n- {stage: split, dataset: rows.jsonl}")
    run_recipe(load_recipe(recipe))
    moved = workspace / "archive.jsonl"
    (workspace / "run/split/train.jsonl").rename(moved)
    (workspace / "run/split/train.jsonl").symlink_to(moved)
    before = moved.read_text()
    run_recipe(load_recipe(recipe, ["split.test_fraction=0.5"]))
    assert moved.read_text() == before
    assert not (workspace / "run/split/train.jsonl").is_symlink()


def test_a_stage_writes_through_a_link_to_its_folder(workspace: Path) -> None:
    (workspace / "disk").mkdir()
    (workspace / "out").symlink_to("disk")
    start("split")
    assert (workspace / "disk/train.jsonl").is_file()
    assert (workspace / "out").is_symlink()


@pytest.mark.parametrize("output_dir", ["m", "m/tuned", "m/../m"])
def test_a_folder_in_the_input_is_refused(workspace: Path, output_dir: str) -> None:
    before = sorted((workspace / "m").iterdir())
    with pytest.raises(SettingsError, match=r"of `sft` lies in its input m, which what the stage"):
        train(output_dir=output_dir)
    assert sorted((workspace / "m").iterdir()) == before


def test_an_input_that_would_be_replaced_is_refused(workspace: Path) -> None:
    start("split", output_dir="parts")
    with pytest.raises(SettingsError, match=r"write over its input parts/train\.jsonl, which"):
        start("split", "dataset=parts/train.jsonl", output_dir="parts")
    train(output_dir="tuned")
    with pytest.raises(SettingsError, match=r"write over its input tuned/model, which lies in"):
        train("model=tuned/model", output_dir="tuned")
    assert (workspace / "tuned/model/config.json").is_file()
    train("model=tuned/model", output_dir=".")  # the parent of its inputs


def test_a_stage_within_what_another_writes_is_refused(workspace: Path) -> None:
    recipe = workspace / "r.yaml"
    recipe.write_text(
        "output_dir: run\nstages:\n- {stage: world, train_prompts: 9}\n"
        "- {stage: split, dataset: rows.jsonl, output_dir: $world/model/parts}"
    )
    with pytest.raises(SettingsError, match=r"parts of `split` lies in what `world` writes"):
        run_recipe(load_recipe(recipe))
    assert list((workspace / "run").iterdir()) == []


def test_a_recipe_refuses_before_its_first_stage_what_a_later_one_would(workspace: Path) -> None:
    recipe = workspace / "r.yaml"
    recipe.write_text(
        "output_dir: run\nstages:\n- {stage: world, train_prompts: 9}\n"
        "- {stage: split, dataset: rows.jsonl}"
    )
    (workspace / "run/split").mkdir(parents=True)
    (workspace / "run/split/train.jsonl").write_text(PRECIOUS)
    with pytest.raises(SettingsError, match=r"`split` would replace .*run/split/train\.jsonl"):
        run_recipe(load_recipe(recipe))
    assert contents(workspace / "run") == {"split/train.jsonl": PRECIOUS}


def files_and_folders(path: Path) -> Iterable[str]:
    return sorted(p.name for p in path.iterdir() if not p.name.startswith("."))


def unknown_names(folder: Path, patterns: Iterable[str]) -> list[str]:
    """What is in a folder beside a stage's records and what the patterns name."""
    known = (*patterns, "stage.json", "manifest.json")
    names = sorted(p.name for p in folder.iterdir())
    return [n for n in names if not any(Path(n).match(pattern) for pattern in known)]


def test_stages_write_nothing_but_their_outputs(tiny_run: Path, workspace: Path) -> None:
    for plan in tiny(tiny_run).stages:
        folder = stage_folder(plan)
        if plan.kind != "report":
            assert unknown_names(folder, OUTPUTS[plan.kind]) == [], plan.name
    stages = [plan.name for plan in tiny(tiny_run).stages]
    assert unknown_names(tiny_run, [*stages, *OUTPUTS["report"]]) == []
    for kind in ("scratch", "split"):
        start(kind, output_dir=kind)
        assert unknown_names(workspace / kind, OUTPUTS[kind]) == []


@pytest.mark.parametrize("output_dir", ["file", "file/sub"])
def test_a_file_where_a_folder_should_be_is_an_error_with_a_remedy(
    workspace: Path, output_dir: str
) -> None:
    (workspace / "file").write_text(PRECIOUS)
    with pytest.raises(AccordError, match="a part of the path is a file"):
        train(output_dir=output_dir)
    assert (workspace / "file").read_text() == PRECIOUS


def test_a_locked_stage_or_run_is_refused(workspace: Path, tmp_path: Path) -> None:
    recipe = workspace / "r.yaml"
    recipe.write_text("output_dir: run\nstages:\n- {stage: split, dataset: rows.jsonl}")
    for folder, purpose in (("run", "run"), ("run/split", "")):
        with lock_folder(folder, purpose), pytest.raises(LockedError, match=rf".*/{folder}: "):
            run_recipe(load_recipe(recipe))
    run_recipe(load_recipe(recipe))
    with lock_folder("run/split"):  # finished: nothing is written
        run_recipe(load_recipe(recipe))
    with lock_folder("run", "run"):  # a report may be written while the run goes on
        start("report", output_dir="run")


def test_the_record_of_a_finished_stage_names_its_files(workspace: Path) -> None:
    train()
    record: Any = json.loads((workspace / "out/stage.json").read_text())
    assert "model/model.safetensors" in record["files"]
    assert all(name.startswith("model/") for name in record["files"])


def test_the_lock_that_a_killed_run_left_in_a_finished_stage_is_removed(workspace: Path) -> None:
    start("split")
    files = sorted(path.name for path in (workspace / "out").iterdir())
    with lock_folder("out"):
        about = json.loads((workspace / "out" / LOCK_FILE).read_text())
    ended = {**about, "pid": 2**22 + 1}  # above any process's number
    (workspace / "out" / LOCK_FILE).write_text(json.dumps(ended))
    start("split")
    assert sorted(path.name for path in (workspace / "out").iterdir()) == files
