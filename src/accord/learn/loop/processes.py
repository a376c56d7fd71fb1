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
from accord.learn.loop.messages import join_tensors, separate_tensors

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
                torch.distributed.all_reduce(parameter.grad, group=_TRAINING.group)

    def all_gather(self, value: Any) -> list[Any]:
        """Each process's value, in rank order, on all of them; tensors of others on the CPU.

        Raises WorkError where a process has ended, or does not answer within `ddp_timeout`.
        """
        if self.world_size == 1:
            return [value]
        structure, content = separate_tensors(value)
        sent: list[Any] = [None] * self.world_size
        with _collective():
            torch.distributed.all_gather_object(
                sent, (structure, len(content)), group=_TRAINING.group
            )
        values = []
        for rank, (structure_of_rank, length) in enumerate(sent):
            received = self._send_bytes(content, length, rank, _TRAINING.group)
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
        return self._broadcast(value, _TRAINING.group)

    def announce(self, value: Any) -> Any:
        """`broadcast` without a time limit: the others wait while the main process works alone."""
        return self._broadcast(value, None)

    def _broadcast(self, value: Any, group: Any) -> Any:
        if self.world_size == 1:
            return value
        structure, content = separate_tensors(value if self.is_main else None)
        box = [(structure, len(content))]
        with _collective():
            torch.distributed.broadcast_object_list(box, group=group)
        structure, length = box[0]
        received = self._send_bytes(content, length, 0, group)
        return value if self.is_main else join_tensors(structure, received)

    def _send_bytes(self, content: torch.Tensor, length: int, source: int, group: Any) -> Any:
        """The `length` bytes that the process `source` sends to all, on the CPU."""
        if not length:
            return content[:0]
        if self.rank != source:
            content = torch.empty(length, dtype=torch.uint8)
        content = content.to(_device())
        with _collective():
            torch.distributed.broadcast(content, src=source, group=group)
        return content.cpu()


@dataclass(slots=True)
class _TrainingGroup:
    """The group of processes that train together, and the seconds that they wait for each other;
    before training the default group, without a limit."""

    group: Any = None
    seconds: int | None = None


_TRAINING = _TrainingGroup()
_UNLIMITED = timedelta(days=365)


@cache
def processes() -> Processes:
    """The processes of this run; a single one unless a launcher's variables say otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # The others wait while the main process does work of one process, such as evaluation.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_UNLIMITED)
    # A process that exits while the group's threads still run is aborted, whatever its result.
    atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes)


def limit_waiting(seconds: int) -> None:
    """From now on each step of training that needs all processes fails after `seconds` without an
    answer, where a process hangs. All processes call this with the same number."""
    if processes().world_size == 1 or _TRAINING.seconds == seconds:
        return
    with _collective():
        _TRAINING.group = torch.distributed.new_group(timeout=timedelta(seconds=seconds))
    _TRAINING.seconds = seconds


def barrier() -> None:
    """Wait for all processes at the end of the command: none exits before all are done."""
    if processes().world_size > 1:
        with _collective():
            torch.distributed.barrier()


def _device() -> torch.device:
    """The device of the tensors that the processes exchange: NCCL sends from GPUs only."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def _collective() -> Iterator[None]:
    """Raise WorkError where a collective operation fails, as when a process has ended or hangs."""
    try:
        yield
    except RuntimeError as error:
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            raise WorkError(
                f"Process {processes().rank} waited ddp_timeout={_TRAINING.seconds} seconds for "
                f"the other processes of this run, and one did not answer: it hangs, or its work "
                f"takes longer. Look at what the processes do (`py-spy dump`), or raise "
                f"ddp_timeout. The same command resumes from the last checkpoint. ({error})"
            ) from error
        raise WorkError(
            f"The processes of this run lost their connection: {error}. If one of them has ended, "
            f"its own message says why. The same command resumes from the last checkpoint."
        ) from error
