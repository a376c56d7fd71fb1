"""The command `accord label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accord.cli.stage_command import Config, Overrides

commands = typer.Typer()

Store = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A preference store: a .db file or a database URL."),
]
Judges = Annotated[
    list[Path] | None,
    typer.Option(
        "--judge",
        metavar="FILE",
        help="A YAML file with a judge's settings, as `accord judge check --config` takes it; "
        "several are a panel.",
    ),
]
Criteria = Annotated[
    list[str] | None,
    typer.Option("--criterion", metavar="NAME", help="Ask this criterion alone, of those set."),
]
ForecastOnly = Annotated[
    bool, typer.Option("--forecast", help="Print calls, tokens and cost, and ask nothing.")
]
Escalate = Annotated[
    bool,
    typer.Option(
        "--escalate", help="Put pairs without a label first in the queue of `accord annotate`."
    ),
]
Output = Annotated[
    str | None, typer.Option("--output", metavar="FILE", help="Write the result as JSON.")
]


@commands.command()
def label(
    store: Store,
    overrides: Overrides = None,
    config: Config = None,
    judges: Judges = None,
    criteria: Criteria = None,
    forecast: ForecastOnly = False,
    escalate: Escalate = False,
    output: Output = None,
) -> None:
    """Let one judge or a panel label the pairs of responses in a store.

    Each pair is judged in both orders, and each judge's verdict is stored with its fingerprint and
    raw answers. What the store or the cache holds is not asked again, so the same command resumes
    an interrupted run.

    \b
    Examples:
      accord label prefs.db base_url=http://127.0.0.1:8000/v1 model=NAME --forecast
      accord label prefs.db --config panel.yaml --escalate
      accord label prefs.db kind=local model=runs/judge verdict=probabilities
    \f
    [labelling.md](labelling.md) shows panels, criteria, references and costs; the settings are in
    [settings.md](settings.md#label). Labels train once the judge has passed
    [`accord judge check`](judges.md#the-proof-of-a-judge).
    """
    from rich.console import Console

    from accord.pipeline.console import messages_above_bar, work_with_bar
    from accord.pipeline.labels.label import LabelReport
    from accord.pipeline.labels.run import read_label_settings, run_label
    from accord.pipeline.labels.text import forecast_text, report_text
    from accord.runs import write_json_atomic

    settings = read_label_settings(config, overrides or [], judges or [])
    work = run_label(
        store,
        settings,
        criteria=criteria or [],
        escalate=escalate,
        forecast_only=forecast,
    )
    console = Console(stderr=True)
    with messages_above_bar(console):
        result = work_with_bar("label", work, console)
    is_report = isinstance(result, LabelReport)
    if output is not None:
        write_json_atomic(output, result.to_json())
    typer.echo(report_text(result) if is_report else forecast_text(result))
