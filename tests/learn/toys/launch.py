"""Several processes that train together, from torchrun or with its variables."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from studies.commands import CommandServer, RunningCommand

from tests.conftest import ROOT


def start_processes(
    count: int, *command: str, cwd: Path = ROOT, log: Path | None = None
) -> subprocess.Popen[str]:
    """Start a Python module, with its arguments, in `count` processes of one run.

    Their standard error is appended to `log`, or goes to a pipe.
    """
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *command],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT}/src",
            "PYTHONHASHSEED": "0",  # peft writes the names of an adapter's layers in their order
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if log is None else log.open("a"),
        text=True,
    )


def run_processes(count: int, *command: str, cwd: Path = ROOT) -> None:
    """Run a Python module in `count` processes to its end, which must be a success."""
    launcher = start_processes(count, *command, cwd=cwd)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors[-3000:]


def start_ranks(
    commands: CommandServer, count: int, *command: str, cwd: Path
) -> list[RunningCommand]:
    """Start `accord COMMAND` in `count` processes of one run, by rank, without a launcher: they
    begin at once. What they print goes to `log` in `cwd`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        commands.start(
            *command, cwd=cwd, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(count)
    ]
