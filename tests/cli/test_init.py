"""`accord init`: each recipe that it writes is valid, short, and runs on the embedded world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.settings.recipe import load_recipe
from accord.settings.stage_kinds import METHOD_SETTINGS
from accord.settings.starters import STARTERS, Start, starter_recipe

ONLINE = [
    m for m in METHOD_SETTINGS if m not in ("sft", "reward", "dpo", "ipo", "kto", "orpo", "simpo")
]


def arguments(kind: str, world: Path, data: Path) -> list[str]:
    options = ["--model", str(world / "model"), "--data", str(data)]
    if kind == "arena":
        options += ["--model", str(world / "model")]
    if kind in (*ONLINE, "iterate", "arena", "judge", "revise"):
        options += ["--reward-model", str(world / "reward")]
    return [kind, *options]


def required(settings: Any) -> dict[str, Any]:
    """The settings that a method can't do without."""
    names = ("model", "dataset", "output_dir", "reward_model")
    return {name: getattr(settings, name) for name in names if hasattr(settings, name)}


@pytest.mark.parametrize("kind", STARTERS)
def test_each_recipe_passes_a_dry_run(
    kind: str,
    tiny_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tiny_world / "demonstrations.jsonl"
    assert run(["init", *arguments(kind, tiny_world, data)]) == 0
    assert f"accord run {kind}.yaml" in capsys.readouterr().out
    assert run(["run", f"{kind}.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "not begun" in shown
    assert not (tmp_path / "runs").exists()
    text = (tmp_path / f"{kind}.yaml").read_text()
    assert len(text.splitlines()) < 65
    assert ("num_train_epochs" in text) == (kind in METHOD_SETTINGS and kind not in ONLINE)
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert all(len(line) <= 100 for line in comments)
    recipe = load_recipe(tmp_path / f"{kind}.yaml")
    if kind in METHOD_SETTINGS:
        settings = recipe.stage(kind).settings
        assert settings.model == str(tiny_world / "model")  # type: ignore[attr-defined]
        assert settings.lora is not None  # type: ignore[attr-defined]
        default = METHOD_SETTINGS[kind](**required(settings), lora=settings.lora)  # type: ignore[attr-defined]
        assert settings.learning_rate == pytest.approx(default.learning_rate)  # type: ignore[attr-defined]


def test_an_existing_file_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    data = tmp_path / "pairs.jsonl"
    command = ["init", "dpo", "--model", "a/b", "--data", str(data), "--output", str(path)]
    assert run(command) == 2
    assert f"There is no file or folder '{data}'" in capsys.readouterr().err
    data.write_text("{}")
    assert run(command) == 0
    before = path.read_text()
    assert run(command) == 2
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == before
    assert run([*command[:-1], str(tmp_path / "no" / "x.yaml")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["dop", "--model", "m"], "Did you mean"),
        (["ppo", "--model", "m"], "`ppo` needs a reward: name a reward model"),
        (["iterate", "--model", "m"], "`iterate` needs a reward"),
        (["arena", "--model", "m"], "give --model twice"),
        (["dpo", "--model", "m", "--model", "n"], "takes one --model"),
    ],
)
def test_what_is_missing_is_named(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", *options, "--data", "d.jsonl"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my model", "a: b", "#x", "mödell", "it's", "$home/x", "7", "on"])
def test_any_path_is_written_as_text(name: str, tmp_path: Path) -> None:
    text = starter_recipe("sft", Start((f"./{name}",), f"/{name}.jsonl"), file="f.yaml")
    path = tmp_path / "f.yaml"
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.stage("sft").settings.model == f"./{name}"  # type: ignore[attr-defined]
    assert recipe.stage("split").settings.dataset == f"/{name}.jsonl"  # type: ignore[attr-defined]


def test_the_dpo_recipe_runs_to_its_report(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        json.loads(line) for line in (tiny_world / "demonstrations.jsonl").open(encoding="utf-8")
    ][:24]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"} for row in rows
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.chdir(tmp_path)
    assert run(["init", "dpo", "--model", str(tiny_world / "model"), "--data", str(data)]) == 0
    fast = ["dpo.max_steps=2", "before.max_new_tokens=4", "after.max_new_tokens=4"]
    assert run(["run", "dpo.yaml", *fast]) == 0
    assert (tmp_path / "runs" / "dpo" / "report.html").is_file()
    card = (tmp_path / "runs" / "dpo" / "dpo" / "model" / "README.md").read_text()
    assert "library_name: peft" in card
