"""The command `accord probe`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from accord.cli.gate import FailOn, gate, require_known
from accord.cli.stage_command import Config

commands = typer.Typer()


@commands.command()
def probe(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REWARD|KEY=VALUE",
            help="A reward model's folder, then settings: preferences=PAIRS output_dir=FOLDER.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    fail_on: FailOn = None,
) -> None:
    """Probe a reward before a policy is trained against it: what can it be misled by?

    Answers of held-out pairs are lengthened, flattered, formatted, repeated, refused, emptied or
    given to another prompt, and scored again. Each audit has a verdict, and a number with its
    interval. REWARD is short for reward_model=REWARD.

    \b
    Examples:
      accord probe runs/rm/model preferences=test.jsonl output_dir=runs/probe
      accord probe rewards='[{kind: python, function: r.py:f}]' preferences=test.jsonl \\
        output_dir=runs/probe --fail-on fail
      accord probe judge.base_url=http://127.0.0.1:8000/v1 judge.model=NAME max_pairs=50 \\
        preferences=test.jsonl output_dir=runs/probe
    \f
    [probing.md](probing.md) says what each probe does, what it tolerates and why; the settings are
    in [settings.md](settings.md#probe). The same command again resumes: what `scores.jsonl` in the
    folder holds is not asked again. `probe.json` has all numbers, and samples.
    """
    from rich.console import Console

    from accord.measure.audits.document import AuditDocument
    from accord.measure.audits.probes import AUDIT_NAMES
    from accord.pipeline.console import messages_above_bar, work_with_bar
    from accord.pipeline.probe.run import read_probe_settings, run_probe
    from accord.pipeline.probe.text import probe_tables

    gates = require_known(fail_on, AUDIT_NAMES)
    values = list(overrides or [])
    if values and "=" not in values[0]:
        values[0] = f"reward_model={json.dumps(values[0])}"
    settings = read_probe_settings(config, values)
    console = Console(stderr=True)
    with messages_above_bar(console):
        document: AuditDocument = work_with_bar("probe", run_probe(settings), console)
    for table in probe_tables(document):
        Console().print(table)
    typer.echo(document.text())
    typer.echo(f"Done: {settings.output_dir}")
    gate(document.audits, gates)
