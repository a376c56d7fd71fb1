"""What two processes exchange: `exchange_in_processes rows FOLDER` writes the memory that views of
one tensor take; `exchange_in_processes hang FOLDER` writes the error where one never answers."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

from accord.errors import WorkError
from accord.learn.loop.processes import barrier, limit_waiting, processes
from accord.runs import write_json_atomic
from tests.learn.loop.test_messages import rows

COUNT = 2000


def exchange_rows() -> dict[str, float]:
    """Megabytes that this process's peak grew by while it exchanged rows, and whether all came."""
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
    return {"grown": grown, "complete": float(complete)}


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def wait_for_a_hanging_process() -> dict[str, str]:
    limit_waiting(2)
    processes().all_gather(None)
    if processes().rank == 1:
        time.sleep(6)
        return {"error": ""}
    try:
        processes().all_gather(None)
    except WorkError as error:
        return {"error": str(error)}
    return {"error": "none"}


if __name__ == "__main__":
    mode, folder = sys.argv[1], Path(sys.argv[2])
    result = exchange_rows() if mode == "rows" else wait_for_a_hanging_process()
    write_json_atomic(folder / f"{processes().rank}.json", result)
    if mode == "rows":
        barrier()
