"""The commands for data sets: `accord data check`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from accord.errors import RequestError

if TYPE_CHECKING:
    from accord.pipeline.checks.result import DataCheck

PAGE_ROWS = 20  # that the page shows of each finding


class FailOn(StrEnum):
    """The level of findings from which on the exit code is 1."""

    error = "error"
    warning = "warning"
    never = "never"


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
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--held-out",
            metavar="PATH",
            help="Another split, such as the test rows: no prompt of it may occur in FILE. May be "
            "repeated.",
        ),
    ] = None,
    eval_set: Annotated[
        list[str] | None,
        typer.Option(
            "--eval-set",
            metavar="PATH",
            help="An evaluation set (a file, a store, XSTest's prompts.csv): report rows that hold "
            "its texts, by n-grams. May be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="KIND", help="Leave this kind of finding out."),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            "--fail-on", help="End with exit code 1 where a finding has this level or a graver one."
        ),
    ] = FailOn.error,
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Rows that each finding shows.")
    ] = 5,
    page: Annotated[
        str | None,
        typer.Option("--page", metavar="HTML", help="Write the findings as one HTML page."),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="JSON", help="Write the findings with all their rows as JSON."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop", metavar="KIND", help="With --write: leave out the rows of this finding."
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "--write", metavar="JSONL", help="Write the rows without those of --drop to a new file."
        ),
    ] = None,
) -> None:
    """Report what a data set contains, what is wrong with it, and what mends that.

    Each finding names its rows, its share of all rows with an exact interval, and the command or
    setting that mends it. Errors are contradictions, prompts shared with --held-out, overlap with
    --eval-set, scores against the labels, template tokens, wrong turns and thoughts in answers;
    the exit code is then 1 (see --fail-on).

    With --model, the rows are read and tokenised as in training: it says how many are used, cut
    and dropped, the rows' numbers, and how long they are in tokens. The model's weights are not
    loaded.

    \b
    Examples:
      accord data check pairs.jsonl --held-out test.jsonl --page check.html
      accord data check pairs.jsonl --drop duplicates --write clean.jsonl
      accord data check pairs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --max-length 512
    \f
    The kinds of findings, their levels and what they do not see: [data-check.md](data-check.md).
    """
    from rich.console import Console

    from accord.pipeline.checks.result import require_kinds, write_without
    from accord.pipeline.checks.terminal import terminal_lines
    from accord.pipeline.console import messages_above_bar, work_with_bar
    from accord.pipeline.data_check import check_steps

    drop = list(drop or [])
    require_kinds(drop, "--drop", rows=True)
    if bool(drop) != (write is not None):
        raise RequestError(
            "--drop KIND says which rows are left out, and --write JSONL where the others are "
            "written. Give both, or neither."
        )
    limits = {"max_length": max_length, "max_prompt_length": max_prompt_length}
    settings = [*(overrides or []), *(f"{k}={n}" for k, n in limits.items() if n is not None)]
    progress = Console(stderr=True)
    steps = check_steps(
        path,
        kind,
        model=model,
        method=method,
        overrides=settings,
        held_out=held_out or [],
        evaluation_sets=eval_set or [],
        ignore=ignore or [],
        excerpts=PAGE_ROWS if page else 0,
    )
    with messages_above_bar(progress):
        result = work_with_bar("check", steps, progress)
        typer.echo(result.summary)
        console = Console(highlight=False, soft_wrap=True)
        for line in terminal_lines(result, show):
            console.print(line)
        _write_files(result, page, json_file)
    if write is not None:
        written, left_out = write_without(result, path, drop, write)
        typer.echo(f"{written:,} rows are written to {write}, {left_out:,} are left out.")
    elif result.reaches(fail_on.value):
        raise typer.Exit(1)


def _write_files(result: DataCheck, page: str | None, json_file: str | None) -> None:
    if json_file is not None:
        from accord.runs.atomic import write_json_atomic

        write_json_atomic(json_file, result.to_json())
        typer.echo(f"The findings with all their rows are in {json_file}.")
    if page is not None:
        from accord.report.data_check import write_page

        write_page(page, result.to_json(rows=PAGE_ROWS), result.excerpts)
        typer.echo(f"The page is {page}.")
