"""Numbered pieces of work spread over processes of this machine."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from accord.errors import WorkError

T = TypeVar("T")

MAX_PROCESSES = 16
_LOOK_SECONDS = 2.0  # how soon a process sees that the one that started it was killed


def usable_processes(pieces: int) -> int:
    """How many processes share `pieces` of work: at most one for each processor that this process
    may use, and one where the system can't fork."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(processors, pieces, MAX_PROCESSES))


def map_in_processes(work: Callable[[int], T], pieces: int, processes: int) -> Iterator[T]:
    """`work(0)`, `work(1)`, …, in order, computed in forked processes; what `work` refers to is not
    copied. Raises what `work` raises, and WorkError where a process is killed."""
    if processes == 1:
        yield from map(work, range(pieces))
        return
    context = multiprocessing.get_context("fork")
    connections: dict[Connection, Any] = {}
    results: dict[int, T] = {}
    pending, following = iter(range(pieces)), 0
    try:
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(
                target=_answer, args=(work, there, [*connections, here], os.getpid()), daemon=True
            )
            with warnings.catch_warnings():
                # Python 3.12 warns of threads beside a fork: the locks that are used have handlers.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            there.close()
            connections[here] = process
            here.send(next(pending))
        while following < pieces:
            for ready in wait(list(connections)):
                assert isinstance(ready, Connection)
                try:
                    number, result, error = ready.recv()
                except (EOFError, ConnectionResetError):
                    raise WorkError(
                        "A process that tokenises was killed, perhaps for want of memory. The same "
                        "command goes on where this stopped."
                    ) from None
                if error is not None:
                    raise error
                results[number] = result
                piece = next(pending, None)
                if piece is None:
                    connections.pop(ready).join(timeout=0)
                    ready.close()
                else:
                    ready.send(piece)
            while following in results:
                yield results.pop(following)
                following += 1
    finally:
        for connection, process in connections.items():
            process.terminate()
            connection.close()


def _answer(
    work: Callable[[int], Any], connection: Connection, others: list[Connection], parent: int
) -> None:
    """What a forked process does until its parent closes the connection, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.disable(logging.CRITICAL)
    gc.freeze()  # a collection would copy the pages of all that the parent holds
    for other in others:
        other.close()
    while True:
        while not connection.poll(_LOOK_SECONDS):
            if os.getppid() != parent:
                return
        try:
            number = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result, error = work(number), None
        except Exception as raised:
            result, error = None, raised
        connection.send((number, result, error))
