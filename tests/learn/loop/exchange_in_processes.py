"""What two processes exchange: the memory that views of one tensor take, and the error where one
process never answers."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import torch

from accord.errors import WorkError
from accord.learn.loop.processes import limit_waiting, processes
from accord.runs import write_json_atomic
from tests.learn.loop.test_messages import rows

COUNT = 2000


def exchange_rows(folder: Path) -> None:
    """Write the megabytes by which this process's peak grew while it exchanged rows, and whether
    all came."""
    procs, sent = processes(), rows(COUNT)
    procs.all_gather(None)  # starts the connections
    before = peak_megabytes()
    received = procs.broadcast(sent if procs.is_main else None)
    gathered = procs.all_gather(dict(enumerate(sent[procs.rank :: 2])))
    grown = peak_megabytes() - before
    complete = torch.equal(torch.cat(received), torch.cat(sent)) and all(
        torch.equal(torch.cat([*gathered[rank].values()]), torch.cat(sent[rank::2]))
        for rank in (0, 1)
    )
    write_json_atomic(folder / f"{procs.rank}.json", {"grown": grown, "complete": complete})


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def wait_for_a_hanging_process(folder: Path) -> None:
    """Write the error with which the main process ends, as the other does not answer."""
    limit_waiting(2)
    processes().all_gather(None)
    if processes().rank == 1:
        time.sleep(4)
        return
    error = ""
    try:
        processes().all_gather(None)
    except WorkError as raised:
        error = str(raised)
    write_json_atomic(folder / "error.json", {"error": error})
