"""Processes that are killed, stopped, that hang or that work for long, in real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from studies.forked import start_forked, wait_forked

from accord.errors import WorkError
from accord.learn.loop import processes as module
from accord.learn.loop.processes import limit_waiting, processes

pytestmark = pytest.mark.slow
SECONDS = 1


def course(folder: Path, special: Callable[[], None]) -> Callable[[int], None]:
    """Exchanges until `special` is called by process 1, in the midst of them; each process writes
    the error that ends it."""

    def work(rank: int) -> None:
        limit_waiting(SECONDS)
        try:
            for step in range(4):
                processes().all_gather(step)
                if step == 2 and rank == 1:
                    (folder / "reached").touch()
                    special()
            (folder / f"done-{rank}").touch()
        except WorkError as error:
            (folder / f"error-{rank}").write_text(str(error))

    return work


def hang_in_a_call() -> None:
    time.sleep(60)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def run_course(folder: Path, special: Callable[[], None]) -> dict[str, str]:
    pids = start_forked(3, course(folder, special), folder / "log")
    codes = wait_forked([pids[0], pids[2]], seconds=60)
    os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
    assert codes == [0, 0], (folder / "log").read_text()
    return {path.name: path.read_text() for path in folder.glob("error-*")}


@pytest.mark.parametrize(
    ("special", "said"),
    [
        (die, "process 1 (%s, pid"),
        (stop, "The process 1 (%s, pid"),
        (hang_in_a_call, "process 1 (%s, pid"),
    ],
)
def test_a_process_that_is_killed_stopped_or_hangs_ends_the_others_by_its_name(
    special: Callable[[], None], said: str, tmp_path: Path
) -> None:
    errors = run_course(tmp_path, special)
    assert set(errors) == {"error-0", "error-2"}
    for error in errors.values():
        assert said % os.uname().nodename in error
        assert "The same command resumes from the last checkpoint." in error
    kinds = {
        die: "has ended without a word",
        stop: "no sign of life for 1 seconds",
        hang_in_a_call: "Process 0 waited ddp_timeout=1 seconds",
    }
    assert kinds[special] in errors["error-0"]


def test_a_process_that_works_for_long_is_waited_for(tmp_path: Path) -> None:
    def work_for_long() -> None:  # five times the limit, as an evaluation of one process
        end = time.monotonic() + 5 * SECONDS
        while time.monotonic() < end:
            sum(range(1000))

    pids = start_forked(3, course(tmp_path, work_for_long), tmp_path / "log")
    assert wait_forked(pids, seconds=60) == [0, 0, 0], (tmp_path / "log").read_text()
    assert {p.name for p in tmp_path.glob("done-*")} == {"done-0", "done-1", "done-2"}


class LateWork:
    """An exchange that completes just behind a poll's time limit."""

    def __init__(self, error: str) -> None:
        self.error, self.completed, self.waits = error, False, 0

    def is_completed(self) -> bool:
        return self.completed

    def wait(self, limit: object = None) -> None:
        self.waits += 1
        if not self.completed:
            self.completed = True
            raise RuntimeError(self.error)


def test_an_exchange_that_completes_behind_a_polls_limit_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch: Any = SimpleNamespace(finding=None, abandoned=None)
    monkeypatch.setattr(module, "_control_group", lambda: None)
    for error in ("Operation timed out!", "Connection closed by peer"):
        work = LateWork(error)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda *a, work=work, **k: work)
        if "timed out" in error:
            module._meet(watch)
            assert work.waits == 2  # the last says whether it failed
        else:
            with pytest.raises(RuntimeError, match=error):
                module._meet(watch)
