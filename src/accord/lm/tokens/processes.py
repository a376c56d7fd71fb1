"""Pieces of work spread over processes of this machine."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from accord.errors import WorkError

P = TypeVar("P")
T = TypeVar("T")

MAX_PROCESSES = 16


def usable_processes() -> int:
    """How many processes share work: one for each processor that this process may use, and one
    where the system can't fork."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(processors, MAX_PROCESSES)


def map_in_processes(work: Callable[[P], T], pieces: Iterable[P], processes: int) -> Iterator[T]:
    """`work(piece)` of each piece, in order, computed in forked processes; what `work` refers to is
    not copied.

    Pieces are taken as they are needed, one ahead. Raises what `work` raises, and WorkError where a
    process is killed.
    """
    if processes == 1:
        yield from map(work, pieces)
        return
    context = multiprocessing.get_context("fork")
    connections: dict[Connection, Any] = {}
    results: dict[int, T] = {}
    pending, num_yielded = enumerate(pieces), 0
    following = next(pending, None)
    try:
        while following is not None or connections:
            while following is not None and len(connections) < processes:
                here, there = context.Pipe()
                process = context.Process(
                    target=_answer,
                    args=(work, there, [*connections, here]),
                    daemon=True,
                )
                with warnings.catch_warnings():
                    # Python 3.12 warns of threads beside a fork: no lock that is used is theirs.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                there.close()
                connections[here] = process
                here.send(following)
                following = next(pending, None)
            for ready in wait(list(connections)):
                assert isinstance(ready, Connection)
                number, result = _receive(ready)
                results[number] = result
                if following is None:
                    connections.pop(ready)
                    ready.close()
                else:
                    ready.send(following)
                    following = next(pending, None)
            while num_yielded in results:
                yield results.pop(num_yielded)
                num_yielded += 1
    finally:
        for connection, process in connections.items():
            process.terminate()
            connection.close()


def _receive(connection: Connection) -> tuple[int, Any]:
    """The number of a piece and its result. Raises what the process raised."""
    try:
        number, result, error = connection.recv()
    except (EOFError, ConnectionResetError):
        raise WorkError(
            "A process that tokenises was killed, perhaps for want of memory. The same command "
            "goes on where this stopped."
        ) from None
    if error is not None:
        raise error
    return number, result


def _answer(work: Callable[[Any], Any], connection: Connection, others: list[Connection]) -> None:
    """What a forked process does until its parent closes the connection, or ends: `others` are the
    parent's ends, of which no copy may stay open here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.disable(logging.CRITICAL)
    gc.freeze()  # a collection would copy the pages of all that the parent holds
    for other in others:
        other.close()
    while True:
        try:
            number, piece = connection.recv()
        except (EOFError, OSError):  # its parent has closed the connection, or was killed
            return
        try:
            result, error = work(piece), None
        except Exception as raised:
            result, error = None, raised
        connection.send((number, result, error))
