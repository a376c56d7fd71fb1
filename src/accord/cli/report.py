"""The command `accord report`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from accord.cli.stage_command import Config, run_single_stage

commands = typer.Typer()


@commands.command()
def report(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_DIR|KEY=VALUE",
            help="The run's folder, then settings of the report.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the finished report to a browser on this machine."),
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="N", min=1, max=65535, help="Port for --serve, on 127.0.0.1."
        ),
    ] = 8000,
) -> None:
    """Write the report of a run, or serve it.

    The report is report.html, one page that needs no other file, and results.json.

    RUN_DIR is short for run=RUN_DIR and output_dir=RUN_DIR.

    \b
    Examples:
      accord report runs/demo
      accord report runs/demo --serve --port 8001
    \f
    `--serve` serves only `report.html`, and only on 127.0.0.1, until Ctrl-C.
    """
    values = list(overrides or [])
    if values and "=" not in values[0]:
        run_dir = values.pop(0)
        for key in ("run", "output_dir"):
            if not any(value.startswith(f"{key}=") for value in values):
                values.insert(0, f"{key}={json.dumps(run_dir)}")
    if serve:
        from accord.cli.report_server import serve_report

        serve_report(values, port=port, log=typer.echo)
    else:
        run_single_stage("report", values, config)
