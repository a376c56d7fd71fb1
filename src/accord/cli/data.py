"""The commands for data sets: `accord data check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from accord.cli import check_options as options
from accord.errors import RequestError

if TYPE_CHECKING:
    from accord.pipeline.checks.result import DataCheck

PAGE_ROWS = 20  # that the page shows of each finding

commands = typer.Typer(help="Check, import and export data sets.", rich_markup_mode=None)


@commands.command("check")
def check(
    path: options.CheckedPath,
    overrides: options.MethodSettings = None,
    kind: options.KindOfRows = None,
    held_out: options.HeldOutPaths = None,
    eval_set: options.EvaluationSets = None,
    ignore: options.Ignored = None,
    fail_on: options.FailLevel = options.FailOn.error,
    show: options.ShownRows = 5,
    page: options.Page = None,
    json_file: options.JsonFile = None,
    drop: options.Dropped = None,
    write: options.NewFile = None,
    model: options.Model = None,
    method: options.Method = None,
    max_length: options.MaxLength = None,
    max_prompt_length: options.MaxPromptLength = None,
) -> None:
    """Report what a data set contains, what is wrong with it, and what mends that.

    Each finding names its rows, its share of all rows with an exact interval, and the command or
    setting that mends it. With findings of the level error the exit code is 1 (see --fail-on).

    With --model, the rows are read and tokenised as in training: it says how many are used, cut
    and dropped, the rows' numbers, and how long they are in tokens. The model's weights are not
    loaded.

    \b
    Examples:
      accord data check pairs.jsonl --held-out test.jsonl --page check.html
      accord data check pairs.jsonl --drop duplicates --write clean.jsonl
      accord data check pairs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --max-length 512
    \f
    The kinds of findings, their levels, and what they miss: [data-check.md](data-check.md).
    """
    from accord.pipeline.checks.result import require_kinds, require_new_file

    drop = list(drop or [])
    require_kinds(drop, "--drop", rows=True)
    if bool(drop) != (write is not None):
        raise RequestError(
            "--drop KIND says which rows are left out, and --write JSONL where the others are "
            "written. Give both, or neither."
        )
    if both := sorted({*drop} & {*(ignore or [])}):
        raise RequestError(f"--drop {both[0]} and --ignore {both[0]} exclude each other.")
    if write is not None:
        require_new_file(path, write)
    limits = {"max_length": max_length, "max_prompt_length": max_prompt_length}
    result = _check_with_bar(
        path,
        kind,
        model=model,
        method=method,
        overrides=[*(overrides or []), *(f"{k}={n}" for k, n in limits.items() if n is not None)],
        held_out=held_out or [],
        evaluation_sets=eval_set or [],
        ignore=ignore or [],
        excerpts=PAGE_ROWS if page else 0,
    )
    _print_findings(result, show)
    _write_files(result, page, json_file)
    if write is not None:
        _write_others(result, path, drop, write)
    elif result.reaches(fail_on.value):
        raise typer.Exit(1)


def _check_with_bar(path: str, kind: str | None, **arguments: object) -> DataCheck:
    from rich.console import Console

    from accord.pipeline.console import messages_above_bar, work_with_bar
    from accord.pipeline.data_check import check_steps

    console = Console(stderr=True)
    with messages_above_bar(console):
        steps = check_steps(path, kind, **arguments)  # type: ignore[arg-type]
        result: DataCheck = work_with_bar("check", steps, console, transient=True)
    return result


def _print_findings(result: DataCheck, show: int) -> None:
    from rich.console import Console

    from accord.pipeline.checks.terminal import terminal_lines

    typer.echo(result.summary)
    console = Console(highlight=False, soft_wrap=True)
    for line in terminal_lines(result, show):
        console.print(line)


def _write_files(result: DataCheck, page: str | None, json_file: str | None) -> None:
    if json_file is not None:
        from accord.runs.atomic import write_json_atomic

        write_json_atomic(json_file, result.to_json())
        typer.echo(f"The findings with all their rows are in {json_file}.")
    if page is not None:
        from accord.report.data_check import write_page

        write_page(page, result.to_json(rows=PAGE_ROWS), result.excerpts)
        typer.echo(f"The page is {page}.")


def _write_others(result: DataCheck, path: str, drop: list[str], output: str) -> None:
    from accord.pipeline.checks.result import write_without

    written, left_out = write_without(result, path, drop, output)
    typer.echo(f"{written:,} rows are written to {output}, {left_out:,} are left out.")
