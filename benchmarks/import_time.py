"""Seconds until `import accord` and `accord --help` are done, beside a bare interpreter.

The commands run in turns, so that all see the same machine; a median is over the turns after one
that does not count. The files are in the page cache by then, as on a machine in use.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table

BARE = "python -c pass"
COMMANDS = {
    BARE: ("-c", "pass"),
    'python -c "import accord"': ("-c", "import accord"),
    "accord --help": ("-m", "accord", "--help"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    medians = {
        name: statistics.median(seconds)
        for name, seconds in run_in_turns(COMMANDS, args.turns).items()
    }
    Console().print(make_table(medians, args.turns))
    write_json(args.json, {"machine": facts, "figures": medians})


def run_in_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, list[float]]:
    """Seconds of each command, by name, in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, arguments in commands.items():
            start_time = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - start_time)
    return seconds


def make_table(medians: Mapping[str, float], turns: int) -> Table:
    table = Table(title=f"median of {turns}")
    for column in ("command", "seconds", "above a bare interpreter"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, seconds in medians.items():
        above = "" if name == BARE else f"{seconds - medians[BARE]:.3f} s"
        table.add_row(name, f"{seconds:.3f} s", above)
    return table


if __name__ == "__main__":
    main()
