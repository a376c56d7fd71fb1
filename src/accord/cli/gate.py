"""`--fail-on`: the exit code 3 of a command whose audits fail, for CI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from accord.errors import RequestError

if TYPE_CHECKING:
    from accord.measure.audits.audit import Audit

EXIT_CODE = 3

FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="WHAT",
        help="Exit with code 3 on this verdict (fail, warn, undecided) of any audit, or unless the "
        "audit of this name passes. Repeat it, or separate by commas.",
        show_default=False,
    ),
]


def require_known(fail_on: Sequence[str] | None, names: Iterable[str]) -> list[str]:
    """The verdicts and audits' names of `--fail-on`, split at commas.

    Raises RequestError for what is neither a verdict nor one of `names`: a gate that is misspelt
    would stay open.
    """
    from accord.measure.audits.audit import VERDICTS

    requested = [
        part.strip() for value in fail_on or [] for part in value.split(",") if part.strip()
    ]
    verdicts = [verdict for verdict in VERDICTS if verdict != "pass"]
    known = [*verdicts, *names]
    unknown = next((name for name in requested if name not in known), None)
    if unknown is not None:
        raise RequestError(f"--fail-on {unknown} is unknown. Give one of {', '.join(known)}.")
    return requested


def gate(audits: Sequence[Audit], fail_on: Sequence[str]) -> None:
    """Raise Exit with code 3 where an audit fails the gate, after naming each that does.

    An audit that is named, and was not made, fails too: what was not measured has not passed.
    """
    from accord.measure.audits.audit import VERDICTS, failing

    failed = [f"{audit.name} ({audit.verdict})" for audit in failing(audits, fail_on)]
    made = {audit.name for audit in audits}
    failed += [f"{n} (not measured)" for n in fail_on if n not in made and n not in VERDICTS]
    if failed:
        typer.echo(f"--fail-on: {', '.join(failed)}", err=True)
        raise typer.Exit(EXIT_CODE)
