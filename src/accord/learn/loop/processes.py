"""The processes that share a training run, as `accelerate launch` (or torchrun) starts them.

Every process holds the whole model and draws the same row order. Each takes its share of a step's
forward passes; gradients are added up, since a loss is divided by the whole step's weight.
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
    """This process's number, from 0, and how many there are."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """This process's part of 0, 1, …, count − 1; all parts are about as long."""
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
            with _together():
                torch.distributed.all_reduce(parameter.grad)

    def all_gather(self, value: Any) -> list[Any]:
        """What each process gives, in their order, on all of them."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        with _together():
            torch.distributed.all_gather_object(found, value)
        return found

    def run_on_all(self, work: Callable[[], T]) -> list[T]:
        """What the work gives in each process, in their order, on all of them.

        Where it raises one of accord's errors in any, all raise the first, so that they stop or go
        on together.
        """
        if self.world_size == 1:
            return [work()]
        given: list[T] = []
        failed: AccordError | None = None
        try:
            given.append(work())
        except AccordError as error:
            failed = error
        found = self.all_gather((given, failed))
        for _, first in found:
            if first is not None:
                raise first
        return [value for values, _ in found for value in values]

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on all of them."""
        if self.world_size == 1:
            return value
        box = [value]
        with _together():
            torch.distributed.broadcast_object_list(box)
        return box[0]


@cache
def processes() -> Processes:
    """The processes of this run; a single one unless a launcher's variables say otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # The others wait while the main process does what runs in one, such as sampling.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    # A process that ends with the group's threads still running is aborted, whatever its result.
    atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes)


def barrier() -> None:
    """Wait for the other processes, at the end of the command: none ends before all are done."""
    if processes().world_size > 1:
        with _together():
            torch.distributed.barrier()


@contextmanager
def _together() -> Iterator[None]:
    """Raise WorkError where what all processes do at once fails, as when one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        raise WorkError(
            f"The processes of this run lost each other: {error}. Where one of them has ended, its "
            f"own message tells why. The same command goes on from the last checkpoint."
        ) from error
