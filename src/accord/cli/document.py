"""docs/commands.md, generated from the commands.

Regenerate it with `python -m accord.cli.document > docs/commands.md`; a test compares the two.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import typer.main

from accord.cli.app import app
from accord.cli.stages import METHODS
from accord.settings.online import OnlineSettings
from accord.settings.preferences import ReferenceSettings
from accord.settings.stage_kinds import METHOD_SETTINGS, method_summary

_INTRODUCTION = """\
# Commands

<!-- Written by `python -m accord.cli.document > docs/commands.md`; do not edit by hand. -->

`accord COMMAND --help` is a short form of this page. Settings are given as `key=value`; every key
is in [settings.md](settings.md).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the work failed (a diverged loss, a full disk), or data or a judge did not pass a check |
| 2 | the request was wrong: an unknown key, a file that can't be read |
| 3 | an audit failed the gate that `--fail-on` set |
| 130 | interrupted; the same command resumes where it stopped |

An error is one paragraph on stderr: what happened, where (file and line, or key), and what to do.

Options of `accord` itself:
"""
_HELP_AND_COMPLETION = """\
- `--install-completion`, `--show-completion`: Install completion for your shell, or show it.
- `--help`, `-h`: Show the help of `accord` or of a command."""
_WIDTH = 100


def commands_page() -> str:
    """The page in Markdown: the options of `accord`, then every command."""
    group = typer.main.get_command(app)
    options = [p for p in group.params if not str(p.name).endswith("_completion")]
    lines = [_INTRODUCTION, *map(_parameter, options), _HELP_AND_COMPLETION]
    for name, command in commands_by_name(group):
        lines += ["", f"## {name}", "", *_command(name, command)]
    return "\n".join(lines) + "\n"


def commands_by_name(group: Any, path: tuple[str, ...] = ("accord",)) -> Iterator[tuple[str, Any]]:
    """All commands with their full names, in the order of the help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_by_name(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _command(name: str, command: Any) -> Iterator[str]:
    help_text, _, page_text = cleandoc(command.help).partition("\f")
    usage = " ".join([name, *map(_usage, sorted(command.params, key=_usage_position))])
    yield f"```\n{usage}\n```\n"
    yield "\n\n".join(map(_paragraph, re.split(r"\n\n+", help_text.strip())))
    if command.params:
        yield ""
        yield from map(_parameter, command.params)
    if page_text.strip():
        yield f"\n{page_text.strip()}"


def _paragraph(text: str) -> str:
    """A paragraph of a help text in Markdown; a verbatim block (`\\b`) is an example."""
    if text == METHODS:
        return _methods_table()
    if text.startswith("\b\n"):
        _, _, example = text.removeprefix("\b\n").partition("\n")
        return f"```\n{textwrap.dedent(example)}\n```"
    return text


def _methods_table() -> str:
    rows = ["| method | what it does | reference model |", "|---|---|---|"]
    for name, settings_class in METHOD_SETTINGS.items():
        needed = "no"
        if issubclass(settings_class, ReferenceSettings):
            needed = "yes"
        elif issubclass(settings_class, OnlineSettings):
            needed = "with a KL penalty"
        rows.append(f"| `{name}` | {method_summary(settings_class)} | {needed} |")
    return "\n".join(rows)


def _usage_position(parameter: Any) -> int:
    """Required arguments come first, then options, then the other arguments."""
    is_option = parameter.opts[0].startswith("-")
    return 1 if is_option else 0 if parameter.required else 2


def _usage(parameter: Any) -> str:
    if not parameter.opts[0].startswith("-"):
        metavar = parameter.metavar
        return metavar if parameter.required else f"[{metavar} ...]"
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    return f"[{parameter.opts[0]}{value}]"


def _parameter(parameter: Any) -> str:
    """A list item with the parameter's names, its help and its default."""
    is_option = parameter.opts[0].startswith("-")
    names = ", ".join(
        f"`{name}`" for name in (parameter.opts if is_option else [parameter.metavar])
    )
    has_default = is_option and not parameter.is_flag and parameter.default is not None
    default = f" The default is `{parameter.default}`." if has_default else ""
    text = f"- {names}: {parameter.help}{default}"
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(commands_page())
