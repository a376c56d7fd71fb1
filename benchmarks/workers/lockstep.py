"""Processes that take training steps in turns, so that all see the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def other_python(variable: str, environment: str) -> Path | None:
    """The interpreter that a variable names, or that of a virtual environment; None without."""
    path = Path(os.environ.get(variable) or ROOT / environment / "bin" / "python")
    return path if path.is_file() else None


class WorkerError(RuntimeError):
    """A worker ended instead of answering; the text is the end of its log."""


class Worker:
    """A worker script as a process that waits between its steps (see workers/protocol.py).

    It is started at once and waited for at its first use, so that several load side by side.
    """

    def __init__(
        self,
        python: str | Path,
        script: str | Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`script` is a path below workers/, or absolute; `environment` adds to this one's."""
        # Not a pipe, which would fill up unread.
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={
                **os.environ,
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
                **(environment or {}),
            },
        )

    @cached_property
    def threads(self) -> int:
        """How many it computes with, which it sends when it is ready."""
        return int(self._read()["threads"])

    def step(self) -> dict[str, Any]:
        """Take a step; returns the worker's measurements. Raises WorkerError where it ended."""
        assert self.threads  # it is ready
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its log says why
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            command = " ".join(map(str, self.process.args))  # type: ignore[arg-type]
            raise WorkerError(f"{command}:\n{self.log.read()[-3000:]}")
        result: dict[str, Any] = json.loads(line)
        return result


def alternate(
    workers: Mapping[str, Worker], *, warmup: int, steps: int
) -> dict[str, Sequence[dict[str, Any]]]:
    """`steps` results of each worker after `warmup` that do not count, in turns.

    Every other turn has the reverse order, so that none always follows the same other. Where the
    worker `trl` fails, the others go on without it. Raises ValueError where workers compute on
    unequal numbers of threads.
    """
    threads: dict[str, int] = {}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for turn in range(-1, warmup + steps):  # first all become ready
        names = [*results] if turn % 2 == 0 else [*results][::-1]
        for name in names:
            try:
                threads[name] = workers[name].threads
                result = workers[name].step() if turn >= 0 else {}
            except WorkerError as error:
                if name != "trl":
                    raise
                print(f"Without TRL, which failed: {error}", flush=True)
                results.pop(name)
                threads.pop(name, None)
                continue
            if turn >= warmup:
                results[name].append(result)
        if len(set(threads.values())) > 1:
            raise ValueError(f"unequal threads: {threads}")
    return results
