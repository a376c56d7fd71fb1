"""The command `accord advise`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accord.cli.stage_command import Config

if TYPE_CHECKING:
    from accord.pipeline.advise.advice import Advice

commands = typer.Typer()


@commands.command()
def advise(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA|KEY=VALUE",
            help="Files of demonstrations, pairs, rankings or labels, then settings: model=MODEL.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the recipe: a new YAML file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON.")] = False,
) -> None:
    """Say whether to train, and by which method, from the data, reward, model and machine.

    The answer is one of: don't train, collect preferences first, best-of-N, SFT, DPO, KTO, ORPO,
    GRPO, or a reward model and then one of these; with the reason, what would change it, and what
    was seen. The data is checked as by `accord data check`.

    \b
    Examples:
      accord advise pairs.jsonl model=runs/sft/model pairs_from=model --output recipe.yaml
      accord advise model=runs/sft/model rewards='[{kind: answer}]' goal=verifiable \\
        responses=runs/sample/responses.jsonl probe=runs/probe/probe.json candidates=8
    \f
    [advise.md](advise.md) explains the rules, and how often they were right; the settings are in
    [settings.md](settings.md#advise).
    """
    from accord.errors import RequestError
    from accord.pipeline.advise.advice import advise as advise_on
    from accord.pipeline.advise.gather import gather
    from accord.pipeline.advise.settings import read_advise_settings
    from accord.pipeline.console import messages_above_bar, work_with_bar

    settings = read_advise_settings(config, overrides or [])
    if output is not None and output.exists():
        raise RequestError(f"{output} exists. Name another file with --output, or remove it.")
    from rich.console import Console

    console = Console(stderr=True)
    with messages_above_bar(console):
        facts = work_with_bar("advise", gather(settings), console, transient=True)
    advice: Advice = advise_on(facts)
    if as_json:
        typer.echo(json.dumps(advice.to_json(), indent=2))
    else:
        typer.echo(advice.text())
    if output is not None:
        from accord.pipeline.advise.recipe import write_recipe

        typer.echo(write_recipe(advice, settings, output), err=as_json)
