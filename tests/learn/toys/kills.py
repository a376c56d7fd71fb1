"""Commands that are killed at chosen moments and started again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from studies.commands import CommandServer
from studies.compare_runs import differences, metric_rows

Moment = tuple[int, float]
"""When a command is killed: the lines that the watched file then has, and seconds after that."""


def run_undisturbed(commands: CommandServer, command: Sequence[str], folder: Path) -> Path:
    """Run a command to its end in a new folder; returns its output folder."""
    folder.mkdir()
    finish(commands, command, folder)
    return folder / "out"


def run_killed(
    commands: CommandServer,
    command: Sequence[str],
    folder: Path,
    moments: Sequence[Moment],
    watched: str = "out/metrics.jsonl",
) -> Path:
    """Run a command in a new folder, killed once at each moment, then to its end; returns its
    output folder."""
    folder.mkdir()
    for lines, seconds in moments:
        running = commands.start(*command, cwd=folder)
        running.wait_for_lines(folder / watched, lines)
        time.sleep(seconds)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, running.log.read_text()
    finish(commands, command, folder)
    return folder / "out"


def finish(commands: CommandServer, command: Sequence[str], folder: Path) -> str:
    """Run a command to its end, which must be a success; returns its log."""
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    return running.log.read_text()


def random_moments(seed: int, kills: int, steps: int) -> list[Moment]:
    """Random moments, later and later; none after the last step but one."""
    rng = random.Random(seed)
    return [(row, rng.uniform(0, 0.004)) for row in sorted(rng.sample(range(1, steps - 1), kills))]


def assert_same_run(run: Path, expected: Path) -> None:
    """All rows and all files are equal; a row that was rolled back occurs once."""
    assert metric_rows(run) == metric_rows(expected)
    assert differences(run, expected) == []
