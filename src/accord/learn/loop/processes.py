"""The processes that share a training run, as `accelerate launch` (or torchrun) starts them.

Every process has the whole model and the same row order. Each computes a shard of a step's forward
passes; gradients are summed, since a loss is divided by the whole step's weight.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from accord.errors import AccordError, WorkError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's rank, from 0, and the number of processes."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """This process's part of 0, 1, …, count − 1; all parts have about the same length."""
        return range(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes; a missing one counts as 0."""
        if self.world_size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            with _collective():
                torch.distributed.all_reduce(parameter.grad)

    def all_gather(self, value: Any) -> list[Any]:
        """Each process's value, in rank order, on all of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _collective():
            torch.distributed.all_gather_object(values, value)
        return values

    def run_on_all(self, work: Callable[[], T]) -> list[T]:
        """Call `work` in each process; its results, in rank order, on all of them.

        If it raises one of accord's errors in any process, all raise the first, so that they stop
        or continue together.
        """
        if self.world_size == 1:
            return [work()]
        results: list[T] = []
        failure: AccordError | None = None
        try:
            results.append(work())
        except AccordError as error:
            failure = error
        gathered = self.all_gather((results, failure))
        for _, error_of_rank in gathered:
            if error_of_rank is not None:
                raise error_of_rank
        return [value for values, _ in gathered for value in values]

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on all processes."""
        if self.world_size == 1:
            return value
        box = [value]
        with _collective():
            torch.distributed.broadcast_object_list(box)
        return box[0]


@cache
def processes() -> Processes:
    """The processes of this run; a single one unless a launcher's variables say otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # The others wait while the main process does work of one process, such as evaluation.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    # A process that exits while the group's threads still run is aborted, whatever its result.
    atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes)


def barrier() -> None:
    """Wait for all processes at the end of the command: none exits before all are done."""
    if processes().world_size > 1:
        with _collective():
            torch.distributed.barrier()


@contextmanager
def _collective() -> Iterator[None]:
    """Raise WorkError where a collective operation fails, as when a process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise WorkError(
            f"The processes of this run lost their connection: {error}. If one of them has ended, "
            f"its own message says why. The same command resumes from the last checkpoint."
        ) from error
