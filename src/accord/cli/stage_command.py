"""The arguments that all commands for a single stage take, and how they run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SETTINGS_HELP = "Settings; a value is read as YAML, and lora.r=8 sets a value in a table."

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help=SETTINGS_HELP, show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="A YAML file with settings of the stage; the command line wins.",
    ),
]


def run_single_stage(
    kind: str, overrides: list[str] | None, config: Path | None, *, method: str | None = None
) -> None:
    """Run one stage outside a recipe and print its folder. Raises SettingsError."""
    from accord.settings.recipe import single_stage

    stage = single_stage(kind, method, config=config, overrides=overrides or [])
    from accord.pipeline import run_stage  # imports torch: after the settings are checked

    if not run_stage(stage):
        return
    typer.echo(f"Done: {stage.settings.output_dir}")  # type: ignore[attr-defined]
