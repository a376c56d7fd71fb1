"""The commands for data sets: `accord data check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

if TYPE_CHECKING:
    from accord.data.columns import Format
    from accord.data.kinds import Kind

commands = typer.Typer(help="Look at data sets.", rich_markup_mode=None)

_KINDS: dict[Format, Kind] = {
    "preference": "comparisons",
    "implicit preference": "comparisons",
    "labelled pair": "comparisons",
    "ranking": "rankings",
    "responses": "prompts",
    "unpaired": "ratings",
    "rating": "ratings",
    "prompt-completion": "demonstrations",
    "messages": "demonstrations",
    "text": "text",
    "prompt": "prompts",
}
"""The kind that rows of each format are read as; rows of other formats are battles."""


@commands.command("check")
def check(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A file, a folder, or a hub name.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Read the rows as text, demonstrations, comparisons, rankings, ratings, prompts "
            "or battles; by default the columns decide.",
        ),
    ] = None,
) -> None:
    """Report what a data set contains.

    The report lists the rows that can't be used and why, the rows that were converted, and the
    methods that can use the rows.

    \b
    Example:
      accord data check pairs.jsonl --kind comparisons
    """
    typer.echo(check_data(path, kind))


def check_data(path: str, kind: str | None) -> str:
    """A report on the rows at `path`, read as `kind` (by default the columns decide).

    Raises RequestError for an unknown kind, DataError if nothing can be read.
    """
    from accord.data.columns import detect_format
    from accord.data.files import read_rows
    from accord.data.kinds import FORMAT_USES, KINDS, Kind
    from accord.data.read import read_battles, read_records
    from accord.errors import RequestError
    from accord.settings.reading.suggest import nearest

    known = [*KINDS, "battles"]
    if kind is not None and kind not in known:
        near = nearest(kind, known)
        suggestion = f" Did you mean {near}?" if near else ""
        raise RequestError(
            f"There is no kind of rows {kind!r} (--kind).{suggestion} The kinds are "
            f"{', '.join(known)}."
        )
    form = None
    if kind is None:
        columns = dict.fromkeys(c for row in read_rows(path) for c in row.values)
        form = detect_format(columns)
        kind = _KINDS.get(form, "battles")
    if kind == "battles":
        _, report = read_battles(path)
    else:
        _, report = read_records(path, next(k for k in get_args(Kind) if k == kind))
    fits = f"\nThe rows fit {FORMAT_USES[form]}." if form else ""
    return f"{path}, read as {kind}: {report.summary()}{fits}"
