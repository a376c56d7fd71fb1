"""Recipes: stages in order, connected by folders, and errors before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.errors import SettingsError
from accord.settings.recipe import (
    METHOD_SETTINGS,
    STAGE_SETTINGS,
    Recipe,
    load_recipe,
    shipped_recipes,
    single_stage,
)
from accord.settings.training import SftSettings

RECIPE = """\
title: Two methods
output_dir: out
seed: 3
stages:
  - stage: world
  - stage: train
    method: sft
    model: $world/model
    dataset: $world/demonstrations.jsonl
  - stage: sample
    name: answers
    model: $sft/model
    model_name: sft
    dataset: ~/prompts.jsonl
    seed: 7
  - stage: arena
    contestants:
      - {name: sft, responses: $answers/responses.jsonl}
  - {stage: report, run: $run, output_dir: $run}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE)
    return path


def error_message(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_stages_in_order_with_folders_and_seeds(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    recipe = load_recipe(recipe_file)
    assert (recipe.output_dir, recipe.seed, recipe.title) == ("out", 3, "Two methods")
    assert [(s.name, s.kind, s.method) for s in recipe.stages] == [
        ("world", "world", None),
        ("sft", "train", "sft"),
        ("answers", "sample", None),
        ("arena", "arena", None),
        ("report", "report", None),
    ]
    settings = {s.name: s.settings.model_dump() for s in recipe.stages}
    assert settings["world"]["output_dir"] == "out/world"
    assert settings["sft"]["model"] == "out/world/model"
    assert settings["sft"]["seed"] == 3
    assert settings["answers"]["model"] == "out/sft/model"
    assert settings["answers"]["model_name"] == "sft"
    assert settings["answers"]["dataset"] == "/home/ann/prompts.jsonl"
    assert settings["answers"]["seed"] == 7
    assert settings["arena"]["contestants"][0]["responses"] == "out/answers/responses.jsonl"
    assert settings["report"]["run"] == settings["report"]["output_dir"] == "out"


def test_overrides_address_the_run_and_its_stages(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file,
        ["output_dir=else/", "seed=5", "sft.max_steps=2", "stages.sft.lora.r=4", "stages.0.seed=9"],
    )
    assert recipe.seed == 5
    sft = recipe.stage("sft").settings
    assert isinstance(sft, SftSettings)
    assert sft.model == "else/world/model"
    assert (sft.max_steps, sft.seed) == (2, 5)
    assert sft.lora is not None
    assert sft.lora.r == 4
    assert recipe.stage("world").settings.model_dump()["seed"] == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sfd.beta=1", "names neither a stage of"),
        ("sfd.beta=1", "Did you mean `sft`?"),
        ("max_steps=1", "write NAME.key=value"),
        ("sft=1", "names the stage `sft` but no key of it"),
        ("sft.method=dpo", "would make another stage of `sft`"),
        ("seed=-1", "`seed` must be at least 0, not -1 (on the command line)"),
        ("seed='1'", "`seed` must be a whole number, not '1' (on the command line)"),
        ("sft.model=$wrld/m", "no stage is called `wrld`. Did you mean `$world/m`?"),
        ("sft.model=$sft", "`sft` is this stage itself. Name an earlier stage."),
        ("sft.model=$arena/m", "the stage `arena` comes later"),
        ("sft.output_dir=./out//world", "is the folder of the stage `world` too"),
        ("sft.output_dir=$world", "is the folder of the stage `world` too"),
        ("sft.output_dir=out/WORLD", "is the folder of the stage `world` too"),
        ("sft.output_dir=$world/../../escaped", "outside of the run's folder out. Leave it out"),
        ("sft.output_dir=$run/..", "outside of the run's folder out. Leave it out"),
        ("sft.output_dir=/tmp/sft", "outside of the run's folder out. Leave it out"),
        ("sft.output_dir=outside", "outside of the run's folder out. Leave it out"),
        ("sft.beta=1", "sft: `sft.beta` is not a key (on the command line)"),
    ],
)
def test_overrides_that_are_refused(recipe_file: Path, override: str, message: str) -> None:
    assert message in error_message(recipe_file, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages:\n- stage: dpo", "r.yaml:2). Write `stage: train` and `method: dpo`."),
        ("stages:\n- stage: trian", "no kind of stage 'trian'"),
        ("stages:\n- stage: trian", "Did you mean `train`?"),
        ("stages:\n- {name: a}", "A stage lacks `stage`, its kind"),
        ("stages:\n- stage: train", "A training stage has no `method`"),
        ("stages:\n- {stage: train, method: pop}", "unknown method 'pop'"),
        ("stages:\n- {stage: world, method: sft}", "A `world` stage has no `method`"),
        ("stages:\n- stage: world\n- stage: world", "r.yaml:3). Give one of them a `name`"),
        ("stages:\n- {stage: world, name: run}", "'run' can't be the name of a stage"),
        ("stages:\n- {stage: world, name: a/b}", "'a/b' can't be the name of a stage"),
        ("stages:\n- {stage: world, name: ..}", "'..' can't be the name of a stage"),
        ("stages:\n- {stage: world, name: Con}", "'Con' can't be the name of a stage"),
        ("stages: []", "`stages` must be a list of stages"),
        ("stages:\n- world", "Stage 1 is 'world'"),
        ("stage:\n- stage: world", "`stage` is not a key of a recipe"),
        ("stages:\n- {stage: world, sed: 3}", "world: `world.sed` is not a key"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_message(write_recipe(tmp_path, text))


def test_the_folder_of_a_stage_is_written_without_dots(recipe_file: Path) -> None:
    # If out/link is a link, out/link/../x is beside what it points to, and not in out.
    recipe = load_recipe(recipe_file, ["sft.output_dir=$run/link/../x"])
    assert recipe.stage("sft").settings.model_dump()["output_dir"] == "out/x"


def test_a_run_without_a_folder_is_called_after_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "stages:\n- stage: world"))
    assert recipe.output_dir == "runs/r"
    assert recipe.seed == 0


@pytest.mark.parametrize("folder", ["~", "~/x/", "  x ", "\x0cx", "a/../x/"])
def test_the_runs_folder_is_read_as_a_stages_is(tmp_path: Path, folder: str) -> None:
    text = f"output_dir: {json.dumps(folder)}\nstages:\n- {{stage: split, dataset: d.jsonl}}"
    recipe = load_recipe(write_recipe(tmp_path, text))
    home = str(Path.home())
    expected = {"~": home, "~/x/": f"{home}/x"}.get(folder, "x")
    stage = recipe.stages[0].settings.output_dir  # type: ignore[attr-defined]
    assert (recipe.output_dir, stage) == (expected, f"{expected}/split")


def test_a_blank_folder_is_refused(tmp_path: Path) -> None:
    text = "output_dir: ' '\nstages:\n- {stage: split, dataset: d.jsonl}"
    with pytest.raises(SettingsError, match=r"`output_dir` is blank \(.*:1\)"):
        load_recipe(write_recipe(tmp_path, text))


def test_a_price_in_a_title_is_no_folder(tmp_path: Path) -> None:
    text = "stages:\n- {stage: report, run: a, title: $100/hour}"
    assert load_recipe(write_recipe(tmp_path, text)).stages[0].settings.model_dump()["title"] == (
        "$100/hour"
    )


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="There is no recipe 'no-such': no such file"):
        load_recipe("no-such")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.output_dir == f"runs/{name}"
    # A recipe that is loaded by its name is the one loaded by its path.
    assert load_recipe(shipped_recipes()[name]) == recipe


def test_every_kind_of_stage_has_a_folder_to_write_to() -> None:
    classes = [c for c in STAGE_SETTINGS.values() if not isinstance(c, dict)] + [
        *METHOD_SETTINGS.values()
    ]
    assert all("output_dir" in c.model_fields for c in classes)


def test_a_single_stage(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("model: m\ndataset: d\nmax_steps: 3\n")
    stage = single_stage("train", "sft", config=path, overrides=["output_dir=o", "max_steps=4"])
    assert (stage.name, stage.kind, stage.method) == ("sft", "train", "sft")
    assert stage.settings.model_dump()["max_steps"] == 4
    with pytest.raises(SettingsError, match=r"`dataset` is missing \(on the command line\)"):
        single_stage("sample", overrides=["model=m", "output_dir=o"])
