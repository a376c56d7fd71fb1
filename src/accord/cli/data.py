"""The commands for data sets: `accord data check`."""

from __future__ import annotations

from typing import Annotated

import typer

commands = typer.Typer(help="Look at data sets.", rich_markup_mode=None)


@commands.command("check")
def check(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A file, a folder, or a hub name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="With --model: settings of the method, such as max_length=512 or "
            "long_prompts=keep_end.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Read the rows as text, demonstrations, comparisons, rankings, ratings, prompts "
            "or battles; by default the columns decide.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PATH",
            help="A model folder or hub name: count tokens, and the rows that training would use, "
            "cut and drop.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", metavar="METHOD", help="The training method; by default the kind decides."
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", metavar="N", help="Short for max_length=N.", min=2),
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option(
            "--max-prompt-length", metavar="N", help="Short for max_prompt_length=N.", min=1
        ),
    ] = None,
) -> None:
    """Report what a data set contains, and what a method would train a model on.

    The report lists the rows that can't be used and why, the rows that were converted, and the
    methods that can use the rows. With --model, the rows are read and tokenised as in training:
    it says how many are used, cut and dropped, the rows' numbers, and how long they are in tokens.
    The model's weights are not loaded.

    \b
    Examples:
      accord data check pairs.jsonl --kind comparisons
      accord data check pairs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --max-length 512
    """
    from rich.console import Console

    from accord.pipeline.console import messages_above_bar
    from accord.pipeline.data_check import check_data

    limits = {"max_length": max_length, "max_prompt_length": max_prompt_length}
    settings = [*(overrides or []), *(f"{k}={n}" for k, n in limits.items() if n is not None)]
    with messages_above_bar(Console(stderr=True)):
        report = check_data(path, kind, model=model, method=method, overrides=settings)
    typer.echo(report)
