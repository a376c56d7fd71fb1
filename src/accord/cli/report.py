"""The command `accord report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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

    RUN_DIR is short for run=RUN_DIR and output_dir=RUN_DIR, with the other settings of the report
    that is there already.

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
        given = {"run": run_dir, "output_dir": run_dir}
        if config is None:  # a file says which report is meant
            given |= _settings_of_report(run_dir)
        keys = {value.partition("=")[0].partition(".")[0] for value in values}
        values[:0] = [f"{k}={json.dumps(v)}" for k, v in given.items() if k not in keys]
    if serve:
        from accord.cli.report_server import serve_report

        serve_report(values, port=port, log=typer.echo)
    else:
        run_single_stage("report", values, config)


def _settings_of_report(folder: str) -> dict[str, Any]:
    """The settings of the report that a recipe, or an earlier call, has written in a folder; its
    paths are as they were given then."""
    from accord.runs.manifest import read_manifest

    manifest = read_manifest(folder)
    settings: dict[str, Any] = manifest["settings"] if manifest is not None else {}
    if not {"run", "contestants"} <= set(settings):
        return {}
    is_same = Path(settings["run"]).resolve() == Path(folder).resolve()
    left_out = {"output_dir"} if is_same else {"output_dir", "run"}
    return {k: v for k, v in settings.items() if v is not None and k not in left_out}
