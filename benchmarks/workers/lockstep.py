"""Processes that take training steps in turns, so that both see the same machine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ONLINE = ("grpo", "ppo", "ppo-shared", "ppo-lora")


def trl_python() -> Path | None:
    """The interpreter of TRL's environment, if there is one."""
    place = os.environ.get("ACCORD_TRL_PYTHON") or ROOT / ".venv-trl" / "bin" / "python"
    return Path(place) if Path(place).is_file() else None


def worker_arguments(methods: Iterable[str]) -> argparse.Namespace:
    """What both workers are told: a method, the folder of the work, rows a step, steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=list(methods))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", default="bf16")
    return parser.parse_args()


def online_arguments() -> argparse.Namespace:
    """What workers of online learning are told: episodes an iteration, responses to a prompt, and
    the tokens of a response."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=ONLINE)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="bf16")
    return parser.parse_args()


class Worker:
    """A worker script as a process that waits between its steps."""

    def __init__(self, python: str | Path, script: str, *arguments: str) -> None:
        # Not a pipe: one that nobody reads would fill up.
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        self.about = self._heard()

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._heard()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.said.close()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.said.seek(0)
            sys.exit(f"{' '.join(map(str, self.process.args))}:\n{self.said.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def alternate(
    workers: Mapping[str, Worker], *, warmup: int, steps: int
) -> dict[str, Sequence[dict[str, Any]]]:
    """`steps` results of each worker after `warmup` that do not count, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for turn in range(warmup + steps):
        for name, worker in workers.items():
            result = worker.step()
            if turn >= warmup:
                found[name].append(result)
    return found
