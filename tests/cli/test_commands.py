"""Commands parse, call one function of the pipeline, and print; the pipeline is a fake here."""

from __future__ import annotations

import errno
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import accord
from accord.cli.entry import run
from accord.errors import StorageError, TrainingError
from accord.settings.recipe import Recipe, StagePlan

RECIPE = """\
output_dir: out
stages:
  - {stage: world}
  - {stage: train, method: sft, model: $world/model, dataset: $world/demonstrations.jsonl}
"""


@dataclass
class FakePipeline:
    """Replaces accord.pipeline and records what it is requested to run."""

    recipes: list[Recipe] = field(default_factory=list)
    stages: list[StagePlan] = field(default_factory=list)
    failure: BaseException | None = None

    def run_recipe(self, recipe: Recipe) -> bool:
        self.recipes.append(recipe)
        self._fail()
        return True

    def run_stage(self, plan: StagePlan) -> bool:
        self.stages.append(plan)
        self._fail()
        return True

    def plan_recipe(self, recipe: Recipe) -> str:
        return f"{len(recipe.stages)} stages [of a plan]"

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    module = types.ModuleType("accord.pipeline")
    for name in ("run_recipe", "run_stage", "plan_recipe"):
        setattr(module, name, getattr(fake, name))
    monkeypatch.setitem(sys.modules, "accord.pipeline", module)
    monkeypatch.setattr(accord, "pipeline", module, raising=False)
    return fake


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE)
    return str(path)


def error_message(capsys: pytest.CaptureFixture[str]) -> str:
    """The message on stderr, which must be a single paragraph."""
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    return error


def test_run_gives_the_recipe_with_overrides(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", recipe_file, "output_dir=else", "sft.max_steps=3"]) == 0
    (recipe,) = pipeline.recipes
    assert recipe.output_dir == "else"
    assert recipe.stage("sft").settings.model_dump()["max_steps"] == 3
    assert capsys.readouterr().out == "Done: else\n"


def test_run_says_where_the_report_is(
    pipeline: FakePipeline, recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("")
    assert run(["run", recipe_file, f"output_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out == f"Done: {tmp_path / 'report.html'}\n"


def test_a_dry_run_prints_and_runs_nothing(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", recipe_file, "--dry-run"]) == 0
    # Brackets are text: a plan must not be parsed as markup.
    assert capsys.readouterr().out == "2 stages [of a plan]\n"
    assert not pipeline.recipes
    assert not pipeline.stages


def test_train_takes_a_file_and_overrides(pipeline: FakePipeline, tmp_path: Path) -> None:
    config = tmp_path / "dpo.yaml"
    config.write_text("model: m\ndataset: d\noutput_dir: o\nbeta: 0.5\n")
    assert run(["train", "dpo", "--config", str(config), "beta=1e-1", "lora.r=4"]) == 0
    (stage,) = pipeline.stages
    assert (stage.kind, stage.method) == ("train", "dpo")
    settings = stage.settings.model_dump()
    assert settings["beta"] == 0.1
    assert settings["lora"]["r"] == 4


def test_sample_and_arena_run_single_stages(pipeline: FakePipeline) -> None:
    assert run(["sample", "model=m", "dataset=d", "output_dir=o"]) == 0
    assert run(["arena", "contestants=[{name: a, responses: b}]", "output_dir=o"]) == 0
    assert [stage.kind for stage in pipeline.stages] == ["sample", "arena"]


def test_report_takes_the_folder_of_the_run(pipeline: FakePipeline) -> None:
    assert run(["report", "runs/a b #1", "examples=3"]) == 0
    settings = pipeline.stages[0].settings.model_dump()
    assert settings["run"] == settings["output_dir"] == "runs/a b #1"
    assert settings["examples"] == 3
    assert run(["report", "runs/a", "output_dir=elsewhere"]) == 0
    assert pipeline.stages[1].settings.model_dump()["output_dir"] == "elsewhere"


def test_a_report_that_is_there_already_keeps_its_settings(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe's report names its contestants; without them it would be another report."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    contestants = [{"name": "dpo", "responses": "runs/a/dpo.jsonl"}]
    settings = {"run": "runs/a", "output_dir": "runs/a", "title": "A", "contestants": contestants}
    manifest = {"settings": {**settings, "ratings": None}, "versions": {}, "status": "finished"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(folder), "title=B"]) == 0
    made = pipeline.stages[0].settings.model_dump(exclude_none=True)
    assert made["run"] == "runs/a"  # the same folder, as the recipe wrote it
    assert made["title"] == "B"
    assert [c["name"] for c in made["contestants"]] == ["dpo"]
    config = tmp_path / "report.yaml"
    config.write_text("title: of the file\n")
    assert run(["report", str(folder), "--config", str(config)]) == 0
    made = pipeline.stages[1].settings.model_dump()
    assert (made["title"], made["contestants"]) == ("of the file", [])
    # The manifest of another kind of stage says nothing about reports.
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "settings": {"run": "x", "title": "C"}})
    )
    assert run(["report", str(folder)]) == 0
    made = pipeline.stages[2].settings.model_dump()
    assert (made["run"], made["title"]) == (str(folder), "accord report")


def test_demo_is_the_recipe_demo(
    pipeline: FakePipeline, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "accord.settings.recipe.shipped_recipes", lambda: {"demo": Path(recipe_file)}
    )
    assert run(["demo", "--output-dir", "a: b", "--seed", "4", "sft.max_steps=1"]) == 0
    (recipe,) = pipeline.recipes
    assert recipe.output_dir == "a: b"
    assert recipe.seed == 4
    assert run(["demo"]) == 0
    assert pipeline.recipes[1].output_dir == "runs/demo"
    assert pipeline.recipes[1].seed == 0


def test_a_wrong_request_ends_with_2(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "dpp", "model=m"]) == 2
    assert "There is no method 'dpp'. Did you mean `dpo`?" in error_message(capsys)
    assert run(["train", "dpo", "model=m", "dataset=d", "output_dir=o", "bta=1"]) == 2
    assert "`bta` is not a key (on the command line). Did you mean `beta`?" in error_message(capsys)
    assert run(["run", "no-such-recipe"]) == 2
    assert "There is no recipe 'no-such-recipe'" in error_message(capsys)
    assert run(["run", recipe_file, "--wrong"]) == 2
    assert "No such option" in error_message(capsys)
    assert run(["fly"]) == 2
    assert "No such command 'fly'" in error_message(capsys)
    assert run(["train"]) == 2
    assert "Missing argument 'METHOD'" in error_message(capsys)
    assert not pipeline.recipes
    assert not pipeline.stages


def test_work_that_fails_ends_with_1(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for failure in (TrainingError("The loss is NaN."), StorageError("The disk is full.")):
        pipeline.failure = failure
        assert run(["run", recipe_file]) == 1
        assert error_message(capsys) == f"Error: {failure}\n"


def test_a_path_that_no_disk_can_hold_is_a_wrong_request(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"runs/{300 * 'm'}/config.json"
    pipeline.failure = OSError(errno.ENAMETOOLONG, "File name too long", long)
    assert run(["run", recipe_file]) == 2
    shown = f"Error: The path with '{60 * 'm'}…' can't be used: File name too long. Check it.\n"
    assert error_message(capsys) == shown
    pipeline.failure = OSError(errno.ELOOP, "Too many levels of symbolic links", "runs/loop")
    assert run(["run", recipe_file]) == 2
    assert "with 'runs' can't be used: Too many levels" in error_message(capsys)


def test_an_unexpected_error_is_reported_without_a_traceback(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failure = ZeroDivisionError("two\nlines")
    assert run(["run", recipe_file]) == 1
    message = error_message(capsys)
    assert "ZeroDivisionError: two lines (test_commands.py:" in message
    assert "--debug" in message


def test_debug_shows_the_traceback_wherever_it_stands(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failure = TrainingError("The loss is NaN.")
    for command in (["--debug", "run", recipe_file], ["run", recipe_file, "--debug"]):
        assert run(command) == 1
        error = capsys.readouterr().err
        assert "Traceback (most recent call last)" in error
        assert error.endswith("Error: The loss is NaN.\n")


def test_an_interrupted_run_ends_with_130_and_says_how_to_resume(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failure = KeyboardInterrupt()
    assert run(["run", recipe_file]) == 130
    assert "The same command resumes where it stopped." in capsys.readouterr().err


def test_an_interrupted_server_has_nothing_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("accord.serve.command.serve_model", interrupt)
    assert run(["serve", "a-model"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


def test_markup_and_control_characters_in_messages_are_text(
    pipeline: FakePipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failure = TrainingError("[bold]no[/bold] \x1b[31mred\x1b[0m\nnext \u202e line")
    assert run(["run", recipe_file]) == 1
    assert error_message(capsys) == (
        "Error: [bold]no[/bold] \\x1b[31mred\\x1b[0m next \\x202e line\n"
    )


def test_data_check_reports_what_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        '{"prompt": "a", "chosen": "b", "rejected": ""}\n'
    )
    assert run(["data", "check", str(rows)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{rows}, read as comparisons: 2 rows, 1 used, 1 dropped")
    assert "The rows fit `reward`, `dpo`" in output
    assert run(["data", "check", str(rows), "--kind", "demonstrations"]) == 0
    assert "read as demonstrations" in capsys.readouterr().out
    assert run(["data", "check", str(rows), "--kind", "demonstration"]) == 2
    assert "Did you mean demonstrations?" in error_message(capsys)
    assert run(["data", "check", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in error_message(capsys)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"accord {accord.__version__}\n"
    assert run([]) == 0
    assert "accord demo" in capsys.readouterr().out
