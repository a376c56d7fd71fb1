"""The app: the options of `accord` itself, and the commands in the order of the help.

A command is a function in one of the modules below. Its docstring is its help; the text after a
form feed (`\\f`) appears in docs/commands.md only, which `accord.cli.document` generates. Modules
that a command calls are imported inside it: `accord --help` imports neither torch nor pydantic.
"""

from __future__ import annotations

from typing import Annotated

import typer

import accord
from accord.cli import (
    advise,
    annotate,
    audit,
    best_of,
    chat,
    data,
    doctor,
    exchange,
    judge,
    label,
    models,
    plan,
    probe,
    recipes,
    redteam,
    report,
    serve,
    stages,
)

app = typer.Typer(
    name="accord",
    rich_markup_mode=None,  # "[key=value …]" in a help text is text, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for module in (
    recipes,
    plan,
    advise,
    stages,
    label,
    annotate,
    models,
    serve,
    chat,
    probe,
    audit,
    redteam,
    report,
    doctor,
):
    app.add_typer(module.commands)
data.commands.add_typer(exchange.commands)
app.add_typer(data.commands, name="data")
app.add_typer(judge.commands, name="judge")
app.add_typer(best_of.commands, name="best-of")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"accord {accord.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error; valid anywhere in the command line."
        ),
    ] = False,
) -> None:
    """Bring a language model into accord with what people prefer, and prove that it did.

    New here? `accord demo` runs the whole cycle on a small embedded world, from an untrained
    model to a report, with nothing to download.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 an audit failed or a
    plan does not fit, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
