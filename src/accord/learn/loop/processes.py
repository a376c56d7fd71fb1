"""The processes that share a training run, as `accelerate launch` (or torchrun) starts them.

Every process has the whole model and the same row order. Each computes a shard of a step's forward
passes; gradients are summed, since a loss is divided by the whole step's weight.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from accord.errors import AccordError, WorkError
from accord.learn.loop.messages import join_tensors, separate_tensors
from accord.learn.loop.watch import Watch, open_watch

T = TypeVar("T")
Y = TypeVar("Y")
Q = ParamSpec("Q")


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
        with _collective():
            self._sum_gradients(parameters)

    def _sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def all_gather(self, value: Any) -> list[Any]:
        """Each process's value, in rank order, on all of them; tensors of others on the CPU.

        Raises WorkError where a process has ended, or does not answer within `ddp_timeout`.
        """
        if self.world_size == 1:
            return [value]
        structure, content = separate_tensors(value)
        sent: list[Any] = [None] * self.world_size
        with _collective():
            torch.distributed.all_gather_object(sent, (structure, len(content)))
        values = []
        for rank, (structure_of_rank, length) in enumerate(sent):
            received = self._send_bytes(content, length, rank)
            is_own = rank == self.rank
            values.append(value if is_own else join_tensors(structure_of_rank, received))
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

    def main_first(self, work: Callable[[], T]) -> T:
        """Call `work` in the main process, then in the others, which can use what it has written.

        If it raises one of accord's errors in the main process, all raise it.
        """
        if self.world_size == 1:
            return work()
        failure: AccordError | None = None
        if self.is_main:
            try:
                result = work()
            except AccordError as error:
                failure = error
        failure = self.announce(failure)
        if failure is not None:
            raise failure
        return result if self.is_main else work()

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on all processes; tensors on the CPU.

        Raises WorkError as `all_gather` does.
        """
        return self._broadcast(value, limited=True)

    def announce(self, value: Any) -> Any:
        """`broadcast` without a time limit: the others wait while the main process works alone."""
        return self._broadcast(value, limited=False)

    def _broadcast(self, value: Any, *, limited: bool) -> Any:
        if self.world_size == 1:
            return value
        structure, content = separate_tensors(value if self.is_main else None)
        box = [(structure, len(content))]
        with _collective(limited=limited):
            torch.distributed.broadcast_object_list(box)
        structure, length = box[0]
        received = self._send_bytes(content, length, 0)
        return value if self.is_main else join_tensors(structure, received)

    def _send_bytes(self, content: torch.Tensor, length: int, source: int) -> Any:
        """The `length` bytes that the process `source` sends to all, on the CPU."""
        if not length:
            return content[:0]
        if self.rank != source:
            content = torch.empty(length, dtype=torch.uint8)
        content = content.to(_device())
        with _collective():
            torch.distributed.broadcast(content, src=source)
        return content.cpu()


_UNLIMITED = timedelta(days=365)  # a process that works is waited for; the watch ends the rest
_POLL = timedelta(seconds=0.5)
LEAVING_SECONDS = 10.0  # for the end of an exchange that this process does not wait for any more


@cache
def processes() -> Processes:
    """The processes of this run; a single one unless a launcher's variables say otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_UNLIMITED)
    _watch()
    atexit.register(_leave, state)
    return Processes(state.process_index, state.num_processes)


def _leave(state: Any) -> None:
    """End this process's part. One that exits while a group's threads still run, or while it is
    referred to, is aborted, whatever its result."""
    watch = _watch()
    watch.stop()
    _control_group.cache_clear()
    deadline = time.monotonic() + LEAVING_SECONDS
    while watch.abandoned is not None and not watch.abandoned.is_completed():
        if time.monotonic() > deadline:  # the group would wait for it without end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(WorkError.exit_code)
        time.sleep(0.1)
    watch.abandoned = None
    state.destroy_process_group()


@cache
def _watch() -> Watch:
    """The watch over the processes of this run, from now to its end."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    watch = open_watch(rank, world_size)
    watch.start()
    return watch


@cache
def _control_group() -> Any:
    """The group in which the processes meet: on the CPU, where waiting can be interrupted."""
    if torch.distributed.get_backend() == "gloo":
        return None  # the group of all
    return torch.distributed.new_group(backend="gloo", timeout=_UNLIMITED)


def limit_waiting(seconds: int) -> None:
    """From now on training fails after `seconds` in which a process that the others wait for made
    no progress. All processes call this with the same number."""
    if processes().world_size > 1:
        _watch().timeout = float(seconds)


def barrier() -> None:
    """Wait for all processes at the end of the command: none exits before all are done."""
    if processes().world_size > 1:
        with _collective(limited=False):
            torch.distributed.barrier()


LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""Parts of what torch says when another process is gone."""


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of torch says that another process is gone."""
    return processes().world_size > 1 and any(part in str(error) for part in LOST)


def naming_lost_processes(
    train: Callable[Q, Generator[Y, None, T]],
) -> Callable[Q, Generator[Y, None, T]]:
    """A generator that raises WorkError, with the process that is gone, where an exchange inside
    of torch has failed."""

    @wraps(train)
    def run(*args: Q.args, **options: Q.kwargs) -> Generator[Y, None, T]:
        try:
            return (yield from train(*args, **options))
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            raise _watch().lost(error) from error

    return run


def _device() -> torch.device:
    """The device of the tensors that the processes exchange: NCCL sends from GPUs only."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def _collective(*, limited: bool = True) -> Iterator[None]:
    """Wait until all processes are here, then do what they do together. Raises WorkError where a
    process has ended, is gone or, if waiting is `limited`, stands still."""
    watch = _watch()
    try:
        with watch.waits(limited=limited):
            _meet(watch)
            yield
    except RuntimeError as error:
        raise watch.lost(error) from error


def _meet(watch: Watch) -> None:
    """Return when all processes have called this."""
    work = torch.distributed.all_reduce(torch.zeros(1), group=_control_group(), async_op=True)
    while not work.is_completed():
        if watch.finding is not None:
            watch.abandoned = work
            raise WorkError(watch.finding)
        try:
            work.wait(_POLL)
        except RuntimeError as error:
            # Not whether it is completed: it may be, just behind the poll's own time limit.
            if "timed out" not in str(error):
                raise
    work.wait()
