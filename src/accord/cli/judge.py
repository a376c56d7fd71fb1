"""The commands for judges: `accord judge check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(help="Prove judges on people's verdicts.", rich_markup_mode=None)


@commands.command("check")
def check(
    people: Annotated[
        str,
        typer.Argument(
            metavar="PEOPLE", help="People's verdicts: a preference store, a file or a hub name."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings of the judge, such as base_url=http://127.0.0.1:8000/v1 model=NAME.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A YAML file with the judge's settings, alone or under the key judge; the command "
            "line wins.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="COLUMN=VALUE", help="Of a file: only rows with this value."
        ),
    ] = None,
    annotators: Annotated[
        list[str] | None,
        typer.Option(
            "--people",
            metavar="NAME",
            help="Of a store: an annotator who is a person; by default those of accord's page.",
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option("--criterion", metavar="NAME", help="Of a store: the criterion judged."),
    ] = None,
    tuned_on: Annotated[
        str | None,
        typer.Option(
            "--tuned-on",
            metavar="FILE",
            help="Rows that the judge's prompt was written with: their prompts are left out.",
        ),
    ] = None,
    max_pairs: Annotated[
        int | None,
        typer.Option("--max-pairs", metavar="N", help="Draw this many pairs at random.", min=1),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", help="Pairs that are asked again.", min=0)
    ] = 15,
    min_kappa: Annotated[
        float,
        typer.Option(
            "--min-kappa",
            metavar="K",
            help="The kappa that it must surely pass; 0 is the best constant answer's.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    own_model: Annotated[
        str | None,
        typer.Option(
            "--own-model",
            metavar="NAME",
            help="The model whose answers count as the judge's own; by default the judge's name.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed of what is drawn.", min=0)
    ] = 0,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="STORE",
            help="The store that the result is recorded in; by default PEOPLE, if it is one.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="Write the report as JSON.")
    ] = None,
) -> None:
    """Prove a judge: measure its agreement with people on pairs that it was not tuned on.

    Each pair is judged in both orders. The judge passes if its kappa with people surely beats the
    best constant answer. The exit code is 0 if it passes, and 1 if it fails or if more verdicts are
    needed.

    \b
    Examples:
      accord judge check votes.db base_url=http://127.0.0.1:8000/v1 model=NAME
      accord judge check testset.json --config judge.yaml --store votes.db --output check.json
    \f
    The report gives the reason in words, and its preference for the response shown first, for the
    longer one and for its own model's, net of what people show on the same rows; how often it
    repeats itself; and how many more verdicts would decide. What each number is:
    [judges.md](judges.md#the-proof-of-a-judge).

    Files may hold pairs with one label (`output_1`, `output_2`, `label`), with a label of each
    annotator (`annotator1`, `annotator2`, …), or chosen and rejected responses. Answers are cached:
    the same command again asks nothing twice.

    The result is recorded in the store, passed or not, under the judge's fingerprint: model,
    endpoint, digests of prompt and rubric, temperature and the like. With any of it changed it is
    another judge, which has not passed.
    """
    from rich.console import Console

    from accord.pipeline.console import messages_above_bar, run_with_bar
    from accord.pipeline.judges.check import CheckOptions, JudgeReport
    from accord.pipeline.judges.run import judge_settings, progress_of, run_check, select_columns
    from accord.pipeline.judges.text import format_report
    from accord.settings.recipe import StagePlan

    settings = judge_settings(config, overrides or [])
    options = CheckOptions(
        min_kappa=min_kappa, max_pairs=max_pairs, repeats=repeats, own_model=own_model, seed=seed
    )
    work = run_check(
        people,
        settings,
        options,
        where=select_columns(where or []),
        annotators=annotators or [],
        criterion=criterion,
        tuned_on=tuned_on,
        store=store,
        output=output,
    )
    reports: list[JudgeReport] = []
    console = Console(stderr=True)
    with messages_above_bar(console):
        run_with_bar(
            StagePlan("judge check", "judge", settings), progress_of(work, reports), console
        )
    typer.echo(format_report(reports[0]))
    if not reports[0].passed:
        raise typer.Exit(1)
