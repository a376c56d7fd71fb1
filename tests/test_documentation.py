"""The pages in docs/ agree with the code: every command, every option, every setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from accord.cli.app import app
from accord.cli.document import commands_by_name, commands_page
from accord.cli.entry import run
from accord.settings.document import settings_page
from accord.settings.reading.foreign import FOREIGN
from accord.settings.recipe import METHOD_SETTINGS, STAGE_SETTINGS
from accord.settings.training import TrainSettings

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


GROUP: Any = typer.main.get_command(app)
ALL = list(commands_by_name(GROUP))


def section(title: str) -> str:
    """The part of commands.md under a heading, up to the next."""
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", COMMANDS, re.M | re.S)
    assert match, f"docs/commands.md has no section '## {title}'"
    return match.group(1)


def test_commands_page_is_generated_from_the_commands() -> None:
    assert commands_page() == COMMANDS, (
        "docs/commands.md differs from the commands: run "
        "`python -m accord.cli.document > docs/commands.md` (or `make docs`)"
    )


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_and_option_is_documented(name: str, command: Any) -> None:
    page = section(name)
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("-"):
                assert f"`{option}`" in page, f"docs/commands.md: {name} lacks {option}"
        assert getattr(parameter, "help", ""), f"{name}: {parameter.name} has no help"
    assert command.help, f"{name} has no help"


def test_every_option_of_accord_itself_is_documented() -> None:
    head = COMMANDS.partition("\n## ")[0]
    for parameter in GROUP.params:
        assert f"`{parameter.opts[0]}`" in head, parameter.opts[0]


def test_no_command_is_documented_that_does_not_exist() -> None:
    assert sorted(re.findall(r"^## (accord .*)$", COMMANDS, re.M)) == sorted(n for n, _ in ALL)


def test_train_names_every_method_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out.partition("\nArguments:")[0]
    listed = re.findall(r"^ *(\w+)  +\w.*$", text, re.M)
    assert listed == list(METHOD_SETTINGS)
    # The list is verbatim: a longer line would run over the width of the help.
    assert max(map(len, text.splitlines())) <= 100
    for method in METHOD_SETTINGS:
        assert f"`{method}`" in section("accord train")


def test_settings_page_is_generated_from_the_settings() -> None:
    on_disk = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert on_disk == settings_page(), (
        "docs/settings.md differs from the settings: run "
        "`python -m accord.settings.document > docs/settings.md` (or `make docs`)"
    )


def test_every_setting_has_a_sentence_and_is_on_the_page() -> None:
    page = settings_page()
    parts = dict(re.findall(r"^##+ (.*)\n((?:(?!^##).*\n)*)", page, re.M))
    classes = {kind: c for kind, c in STAGE_SETTINGS.items() if not isinstance(c, dict)}
    classes |= {f"train {method}": c for method, c in METHOD_SETTINGS.items()}
    for title, settings_class in classes.items():
        shared = parts["train"] if issubclass(settings_class, TrainSettings) else ""
        for key, field in settings_class.model_fields.items():
            assert field.description, f"{title}: {key} has no description"
            assert field.description.endswith((".", ".)")), f"{title}: {key} has no sentence"
            assert f"| `{key}` |" in parts[title] + shared, f"{title}: {key} is not on the page"


def test_names_of_other_tools_are_not_keys_here() -> None:
    """A key that exists must not be refused as another tool's."""
    for method, settings_class in METHOD_SETTINGS.items():
        assert not set(FOREIGN) & set(settings_class.model_fields), method


def test_numbered_decisions_have_titles() -> None:
    numbers: set[str] = set()
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        number = path.name[:4]
        assert number.isdecimal(), path.name
        assert number not in numbers, f"two decisions are numbered {number}"
        numbers.add(number)
        assert path.read_text(encoding="utf-8").startswith("# ")
