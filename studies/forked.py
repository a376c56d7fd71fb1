"""Several processes of one run, forked from this one: they start at once, with all imported."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from accord.learn.loop import processes as module


def start_forked(count: int, work: Callable[[int], None], log: Path) -> list[int]:
    """Call `work(rank)` in `count` processes of one run; returns their ids. Their exit code is 0
    where it returns, 1 where it raises; the traceback goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            _run_child(rank, count, port, work, log)
        pids.append(pid)
    return pids


def wait_forked(pids: list[int], *, seconds: float = 900.0) -> list[int | None]:
    """The exit codes of processes, negative for signals; None for one that does not end in time,
    which is killed then."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(pids) and time.monotonic() < deadline:
        for pid in (p for p in pids if p not in codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in (p for p in pids if p not in codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [codes.get(pid) for pid in pids]


def run_forked(count: int, work: Callable[[int], None], log: Path) -> None:
    """Run processes to their end, which must be a success."""
    codes = wait_forked(start_forked(count, work, log))
    assert codes == [0] * count, log.read_text() if log.is_file() else codes


def _run_child(rank: int, count: int, port: int, work: Callable[[int], None], log: Path) -> None:
    code = 1
    try:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 2)
        module.processes.cache_clear()
        torch.set_num_threads(1)
        module.processes()
        work(rank)
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        with suppress(Exception):
            module._watch().stop()
            if code == 0 and module._watch().abandoned is None:
                torch.distributed.destroy_process_group()
        os._exit(code)
