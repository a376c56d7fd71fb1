"""The command `accord doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from accord.machine.row import DoctorRow

commands = typer.Typer()
_MARKS = {"ok": "ok", "absent": "-", "failed": "FAILED", "slow": "slow"}
_TITLES = {
    "machine": "Versions and machine",
    "installed": "Installed",
    "works": "Tried",
    "speed": "Speed and limits",
}


@commands.command()
def doctor(
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="A vLLM or other OpenAI-compatible server, which is asked for its models.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show what is installed, what works, and what would make this machine faster.

    Versions, processor, memory, devices and disk; the optional extras with the command that
    installs each; bf16 products, the compiler, GPUs and the hub, each tried in a moment; threads,
    the container's limits, swap and shared memory, each with what mends it. Quote it in a question
    or a bug report.

    \b
    Example:
      accord doctor --server http://127.0.0.1:8000
    \f
    Each row is `ok`, `-` (absent, and needed only for what the row names), `slow` (it works, and
    could do better) or `FAILED`. The trials run in a process of their own, so that a library that
    crashes is a row as well, and the exit code is 0 whatever is broken. The only addresses asked
    are the hub's, unless `HF_HUB_OFFLINE=1` is set, and `--server`.
    """
    from accord.machine.doctor import doctor_rows

    rows = doctor_rows(server)
    if as_json:
        import json

        typer.echo(json.dumps({"rows": [row.to_json() for row in rows]}, indent=2))
    else:
        typer.echo("\n".join(_lines(rows)))


def _lines(rows: list[DoctorRow]) -> list[str]:
    width = max(len(row.name) for row in rows)
    lines: list[str] = []
    section = ""
    for row in rows:
        if row.section != section:
            lines += [*([""] if section else []), _TITLES[row.section]]
            section = row.section
        mark = "" if row.section == "machine" else f"{_MARKS[row.state]:<7}"
        lines.append(f"  {row.name:<{width}}  {mark}{row.detail}")
        if row.remedy:
            lines.append(f"  {'':<{width}}  {'':<7}→ {row.remedy}")
    return lines
