"""Preferences into and out of a store: `accord data import` and `accord data export`."""

from __future__ import annotations

from typing import Annotated

import typer

commands = typer.Typer(rich_markup_mode=None)

Store = Annotated[
    str, typer.Argument(metavar="STORE", help="A preference store: a .db file, or a database URL.")
]


@commands.command("import")
def import_rows(
    path: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file, a folder, or a hub name."),
    ],
    store: Store,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Read the rows as rows, verdicts, arena, argilla, label-studio, "
            "label-studio-min, helpsteer3, ultrafeedback, nectar, nemo-rl or pandalm; by default "
            "the columns decide.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Where the verdicts come from, as `filter.source` names it; by default the file's "
            "name.",
        ),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(
            "--annotator",
            metavar="NAME",
            help="Who gave the verdicts of rows that name nobody; by default the source.",
        ),
    ] = None,
    round_number: Annotated[
        int,
        typer.Option("--round", metavar="N", help="The round of rows that name none.", min=0),
    ] = 0,
) -> None:
    """Add the preferences in a file to a preference store.

    The store is created if it is missing. Rows may be those of TRL (preference, unpaired), LMArena,
    Argilla, Label Studio, HelpSteer3, UltraFeedback, Nectar, NeMo-RL, PandaLM, or what `accord data
    export` writes. A tie stays a tie, and both bad stays both bad.

    Each row is either added or listed as dropped, with its line and the reason. A file that is
    imported again adds nothing.

    \b
    Examples:
      accord data import votes.jsonl preferences.db
      accord data import battles.parquet preferences.db --source lmarena
    """
    from rich.console import Console

    from accord.compare.exchange.importing import import_preferences
    from accord.pipeline.console import messages_above_bar

    with messages_above_bar(Console(stderr=True)):
        result = import_preferences(
            path, store, form=form, source=source, annotator=annotator, round_number=round_number
        )
    typer.echo(result.summary())


@commands.command("export")
def export_rows(
    store: Store,
    path: Annotated[
        str,
        typer.Argument(metavar="FILE", help="The new file: .jsonl, or .csv for the format csv."),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="pairs (TRL's prompt, chosen, rejected), kto (prompt, completion, label), "
            "rankings (prompt, responses, ranks), verdicts (all that a verdict says), or csv (the "
            "same as CSV).",
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME", help="Verdicts from this source; repeatable."),
    ] = None,
    annotator: Annotated[
        list[str] | None,
        typer.Option("--annotator", metavar="NAME", help="Verdicts of this one; repeatable."),
    ] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            "--criterion",
            metavar="NAME",
            help="Verdicts on this criterion; `overall` is the whole response; repeatable.",
        ),
    ] = None,
    rounds: Annotated[
        list[int] | None,
        typer.Option("--round", metavar="N", help="Verdicts of this round; repeatable."),
    ] = None,
    desirable_from: Annotated[
        float | None,
        typer.Option(
            "--desirable-from",
            metavar="SCORE",
            help="With kto: the score from which a rated response is desirable; 0.5 where all "
            "scores are from 0 to 1.",
        ),
    ] = None,
) -> None:
    """Write the verdicts of a preference store to a file.

    Each verdict is a row (of a ranking, each of its pairs, with --format pairs). What a format
    can't hold is counted: ties in pairs, and fields without a column. `accord data import` reads
    every format back; from `verdicts` and `csv`, all but a judge's fingerprint and answers.

    \b
    Examples:
      accord data export preferences.db pairs.jsonl --format pairs --source person
      accord data export preferences.db votes.csv --format csv
    """
    from accord.compare.exchange.exporting import export_preferences
    from accord.settings.verdicts import VerdictFilter

    chosen = VerdictFilter(
        source=source or None,
        annotator=annotator or None,
        criterion=criterion or None,
        round=rounds or None,
    )
    result = export_preferences(
        store, path, form, verdict_filter=chosen, desirable_from=desirable_from
    )
    typer.echo(result.summary())
