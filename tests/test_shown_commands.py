"""Each `accord …` that the guides show is one that accord takes: command, options and settings.

What is run, and not only read: `accord init` here, start.md's `init`, `run` and report in
tests/cli/test_init.py, blocks of Python in tests/api/test_python_page.py, the experiments by
`make figures` (three of them in tests/test_experiments.py).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from accord.annotate.start import read_settings
from accord.cli.app import app
from accord.cli.entry import run
from accord.errors import AccordError
from accord.pipeline.advise.settings import read_advise_settings
from accord.pipeline.judges.run import judge_settings
from accord.pipeline.labels.run import read_label_settings
from accord.settings.recipe import load_recipe
from accord.settings.stage_kinds import single_stage
from tests.lm.toys import save_toy

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = [DOCS / "start.md", *sorted(DOCS.glob("how-to/*.md")), *sorted(DOCS.glob("learn/*.md"))]
# Their commands are about one option or another, and leave the rest out.
OTHERS = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
OTHERS = [page for page in OTHERS if page.name not in ("start.md", "commands.md", "settings.md")]
GROUP: Any = typer.main.get_command(app)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_STORE = "postgresql+psycopg://USER@HOST/preferences"  # what the page sets $STORE to
_LAUNCHER = re.compile(r"^torchrun .*? -m accord ")
# The kind of stage that a command runs.
_STAGES = {name: name for name in ("sample", "iterate", "revise", "arena", "audit", "redteam")}
_STAGES["best-of curve"] = "curve"
# The pages whose blocks of Python tests/api/test_python_page.py runs.
_PYTHON_RUNS = {"your-own-function.md", "trusted-judge.md"}


def fenced(text: str, *languages: str) -> list[str]:
    return [block for language, block in _FENCE.findall(text) if language in languages]


def shown(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The arguments of each `accord`, and whether it is all of a command: those in blocks are, and
    those in sentences that give a setting; others are about the command or an option of it."""
    text = page.read_text(encoding="utf-8").replace("$STORE", _STORE)
    for block in fenced(text, "", "bash", "sh"):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            line = _LAUNCHER.sub("accord ", line)
            if line.startswith("accord "):
                yield shlex.split(line, comments=True)[1:], True
    for line in re.findall(r"`accord ([^-`][^`]*)`", _FENCE.sub("", text)):
        yield shlex.split(line), "=" in line and "…" not in line


def parsed(arguments: Sequence[str], *, whole: bool) -> tuple[str, dict[str, Any]]:
    """The command's name and what it is called with, by accord's own parser. Raises KeyError for
    an unknown command, and for an option the error that a user gets."""
    command, names, rest = GROUP, [], list(arguments)
    while hasattr(command, "commands"):
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    try:
        return " ".join(names), command.make_context(names[-1], rest).params
    except typer.TyperException as error:
        unfinished = ("Missing", "requires an argument")
        if whole or not any(text in error.format_message() for text in unfinished):
            raise
        return " ".join(names), {}


def check_settings(name: str, values: dict[str, Any]) -> None:
    """Raises SettingsError for settings that the command would refuse."""
    overrides, config = list(values.get("overrides") or []), values.get("config")
    if name == "train":
        single_stage("train", values["method"], config=config, overrides=overrides)
    elif name in _STAGES:
        if overrides and "=" not in overrides[0]:
            overrides[0] = f"model={overrides[0]}"
        single_stage(_STAGES[name], config=config, overrides=overrides)
    elif name in ("run", "plan"):
        load_recipe(values["recipe" if name == "run" else "what"], overrides)
    elif name == "annotate":
        read_settings(overrides, config)
    elif name == "label":
        read_label_settings(config, overrides)
    elif name == "judge check":
        judge_settings(config, overrides)
    elif name == "advise":
        read_advise_settings(config, [v for v in overrides if "=" in v])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages have a reader write: recipes of `accord init`, YAML files."""
    monkeypatch.chdir(tmp_path)
    save_toy(Path("MODEL"))
    row = {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No."}
    Path("pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    for kind in ("dpo", "ppo"):
        reward = ["--reward-model", "MODEL"] if kind == "ppo" else []
        arguments = ["init", kind, "--model", "MODEL", "--data", "pairs.jsonl", *reward]
        assert run(arguments) == 0
    return tmp_path


def test_every_shown_command_and_its_settings_are_taken(folder: Path) -> None:
    count = 0
    for page in PAGES:
        for block in fenced(page.read_text(encoding="utf-8"), "yaml"):
            name = re.match(r"# ([\w.-]+\.yaml)\n", block)
            assert name, f"{page.name}: no command reads this block, whose file has no name"
            (folder / name.group(1)).write_text(block, encoding="utf-8")
        for arguments, whole in shown(page):
            try:
                name_of_command, values = parsed(arguments, whole=whole)
                if whole:
                    check_settings(name_of_command, values)
            except (AccordError, KeyError, typer.TyperException) as error:
                pytest.fail(f"{page.name}: accord {shlex.join(arguments)}: {error}")
            count += whole
    assert count > 40  # the pattern still finds them


def test_options_that_other_pages_show_exist() -> None:
    commands = [(page, line) for page in OTHERS for line, _ in shown(page)]
    for page, arguments in commands:
        try:
            parsed(arguments, whole=False)
        except (KeyError, typer.TyperException) as error:
            pytest.fail(f"{page.name}: accord {shlex.join(arguments)}: {error}")
    assert len(commands) > 80  # the pattern still finds them


@pytest.mark.parametrize(
    ("line", "whole"),
    [("trian dpo", False), ("train dpo --no-such", False), ("train dpo model=m bata=0.1", True)],
)
def test_a_command_that_is_wrong_is_found(line: str, whole: bool) -> None:
    with pytest.raises((AccordError, KeyError, typer.TyperException)):
        check_settings(*parsed(line.split(), whole=whole))


def test_other_blocks_of_the_pages_are_run_or_read() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not fenced(text, "python") or page.name in _PYTHON_RUNS, page
        for block in fenced(text, "json"):
            json.loads(block)
        for script in re.findall(r"python (docs/learn/experiments/[\w-]+\.py)", text):
            assert (DOCS.parent / script).is_file(), script
