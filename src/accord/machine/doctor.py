"""All rows of `accord doctor`. It never fails: what is broken is a row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from accord.machine.installed import EXTRAS, extra_row, program_rows, requirement_rows
from accord.machine.limits import meminfo
from accord.machine.network import hub_row, server_row
from accord.machine.row import DoctorRow, Section, attempt, error_text
from accord.machine.speed import memory_rows, storage_rows
from accord.machine.trials import TRIALS
from accord.runs.manifest import machine, versions
from accord.runs.storage import format_bytes

TRIAL_SECONDS = 60
"""Until a trial counts as stuck; the first one imports torch, from a cold disk perhaps."""


def doctor_rows(server: str | None = None) -> list[DoctorRow]:
    """Versions, extras, trials and advice on speed, in the order of sections.

    `server` is the address of an OpenAI-compatible server (vLLM) to ask for its models.
    """
    asked: dict[str, Callable[[], DoctorRow]] = {"hub": hub_row}
    if server is not None:
        asked["server"] = partial(server_row, server)
    with _Meanwhile(asked) as network:
        rows = [*_machine_rows(), *_installed_rows(), *trial_rows(list(TRIALS))]
    rows += network.rows
    rows += _several("speed", "memory", lambda: list(memory_rows()))
    rows += _several("speed", "storage", lambda: list(storage_rows(Path.cwd())))
    order = ("machine", "installed", "works", "speed")
    return sorted(rows, key=lambda row: order.index(row.section))


def _machine_rows() -> list[DoctorRow]:
    """Versions, processor, memory and disk: what a bug report needs."""

    def look() -> list[DoctorRow]:
        properties = machine()
        available, total = meminfo().get("MemAvailable"), properties["memory"]
        memory = format_bytes(total) if total else "unknown"
        if available is not None:
            memory = f"{format_bytes(available)} of {memory} available"
        usage = shutil.disk_usage(Path.cwd())
        facts = {
            **versions(),
            "system": str(properties["system"]),
            "processor": f"{properties['cpu']}, {properties['cores']} cores for this process",
            "memory": memory,
            "disk": f"{format_bytes(usage.free)} of {format_bytes(usage.total)} free in this "
            "folder",
        }
        return [DoctorRow("machine", name, "ok", value) for name, value in facts.items()]

    return _several("machine", "machine", look)


def _installed_rows() -> list[DoctorRow]:
    rows = _several("installed", "requirements", requirement_rows)
    rows += [attempt("installed", extra, partial(extra_row, extra)) for extra in EXTRAS]
    return rows + _several("installed", "programs", program_rows)


def _several(section: Section, name: str, look: Callable[[], list[DoctorRow]]) -> list[DoctorRow]:
    """The rows of a look; where it raises, one row that says what was raised."""
    try:
        return look()
    except (Exception, SystemExit) as error:
        return [DoctorRow(section, name, "failed", error_text(error))]


def trial_rows(
    names: Sequence[str],
    *,
    program: Sequence[str] = ("-m", "accord.machine.trials"),
    seconds: float = TRIAL_SECONDS,
) -> Iterator[DoctorRow]:
    """The rows of trials in a process of their own.

    A trial that ends the process, or does not end, gets a row that says so, and the others follow
    in a new process.
    """
    remaining = list(names)
    while remaining:
        rows, fault = _run_apart(remaining, program, seconds)
        yield from rows
        remaining = remaining[len(rows) :]
        if remaining:
            yield DoctorRow("works", remaining.pop(0), "failed", fault)


def _run_apart(
    names: Sequence[str], program: Sequence[str], seconds: float
) -> tuple[list[DoctorRow], str]:
    """The rows that the process wrote before it ended, and how it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    command = [sys.executable, "-W", "ignore", *program, *names]
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, timeout=seconds,
        )  # fmt: skip
        output, fault = done.stdout, _how_it_ended(done.returncode)
    except subprocess.TimeoutExpired as expired:
        output, fault = expired.stdout or b"", f"no end within {seconds:g} s"
    except OSError as error:
        output, fault = b"", error_text(error)
    # A process that is ended in the middle leaves half a line.
    lines = [line for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
    return [DoctorRow(**json.loads(line)) for line in lines[: len(names)]], fault


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    return f"the process crashed ({signal.Signals(-code).name})"


class _Meanwhile:
    """Questions to the network that are asked while the block runs, each in a thread."""

    def __init__(self, looks: Mapping[str, Callable[[], DoctorRow]]) -> None:
        self.looks = looks
        self.answers: dict[str, DoctorRow] = {}
        self.rows: list[DoctorRow] = []

    def __enter__(self) -> _Meanwhile:
        # A name server that does not answer can't be interrupted: the threads are daemons.
        self.threads = {
            name: threading.Thread(target=self._ask, args=(name,), daemon=True)
            for name in self.looks
        }
        for thread in self.threads.values():
            thread.start()
        return self

    def _ask(self, name: str) -> None:
        self.answers[name] = attempt("works", name, self.looks[name])

    def __exit__(self, *_: object) -> None:
        for name, thread in self.threads.items():
            thread.join(timeout=1.0)
            late = DoctorRow("works", name, "failed", "no answer from the network in time")
            self.rows.append(self.answers.get(name, late))
