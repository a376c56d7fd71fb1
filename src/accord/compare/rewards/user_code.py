"""Runs code that a user wrote, so that it can neither end the run unseen nor change it.

Whatever it raises is a RewardError with its name, `sys.exit` too. What it changes for the whole
process is put back, with one warning: the working folder, to which paths are relative; stdout and
stderr; the signals that end a run; torch's defaults. Random numbers need no care, since accord
draws none from the global generators.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch

from accord.errors import RewardError
from accord.interrupts import INTERRUPTS

log = logging.getLogger(__name__)

T = TypeVar("T")

STREAMS = ("stdout", "stderr")
TORCH: Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any]]] = (
    ("changed torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("changed torch's default device", torch.get_default_device, torch.set_default_device),
    ("switched gradients on or off", torch.is_grad_enabled, torch.set_grad_enabled),
    (
        "changed torch.use_deterministic_algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    ("changed torch's number of threads", torch.get_num_threads, torch.set_num_threads),
)
"""What code may do to torch for the whole process, with the functions that read and set it."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a user's code may change in the process; `descriptors` are copies of 1 and 2."""

    folder: str | None
    streams: tuple[Any, ...]
    descriptors: tuple[int | None, ...]
    signals: tuple[Any, ...]
    torch: tuple[Any, ...]
    logging_disabled: int


def run_user_code(code: Callable[[], T], name: str, describe: Callable[[BaseException], str]) -> T:
    """The result of code that messages call `name`. Raises RewardError, with what `describe` makes
    of the error, for whatever it raises but KeyboardInterrupt."""
    before = read_process_state()
    try:
        return code()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RewardError(describe(error)) from error
    finally:
        restore_process_state(before, name)


def read_process_state() -> ProcessState:
    """The state before a user's code runs; `restore_process_state` must follow."""
    return ProcessState(
        _folder(),
        tuple(getattr(sys, name) for name in STREAMS),
        tuple(_copy_descriptor(number) for number in (1, 2)),
        tuple(map(signal.getsignal, INTERRUPTS)),
        tuple(read() for _, read, _ in TORCH),
        logging.root.manager.disable,
    )


def restore_process_state(before: ProcessState, name: str) -> None:
    """Put back what has changed, with one warning for each kind of change."""
    changes = [*_restore_streams(before), *_restore_torch(before)]
    if before.logging_disabled != logging.root.manager.disable:
        logging.disable(before.logging_disabled)
        changes.append("switched off logging")
    if before.folder is not None and _folder() != before.folder:
        changes.append("changed the working folder (os.chdir)")
        os.chdir(before.folder)
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(INTERRUPTS, before.signals, strict=True):
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
                changes.append(f"changed the handler of {number.name}")
    for change in changes:
        _warn_once(name, change)


def _folder() -> str | None:
    with suppress(OSError):
        return os.getcwd()
    return None  # somebody removed it


def _copy_descriptor(number: int) -> int | None:
    with suppress(OSError):
        return os.dup(number)
    return None


def _restore_streams(before: ProcessState) -> list[str]:
    changes = []
    for number, saved in zip((1, 2), before.descriptors, strict=True):
        if saved is None:
            continue
        if not _is_same_file(number, saved):
            os.dup2(saved, number)  # the next file that is opened must not become the output
            changes.append(f"closed or replaced the file descriptor {number}")
        os.close(saved)
    for number, name, stream in zip((1, 2), STREAMS, before.streams, strict=True):
        if stream is not None and getattr(stream, "closed", False):
            stream = open(number, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, f"__{name}__", stream)
        if getattr(sys, name) is not stream:
            setattr(sys, name, stream)
            changes.append(f"closed or replaced sys.{name}")
    return changes


def _is_same_file(first: int, second: int) -> bool:
    try:
        return os.path.sameopenfile(first, second)
    except OSError:
        return False


def _restore_torch(before: ProcessState) -> list[str]:
    changes = []
    for (change, read, write), value in zip(TORCH, before.torch, strict=True):
        if read() != value:
            write(value)
            changes.append(change)
    return changes


@cache
def _warn_once(name: str, change: str) -> None:
    log.warning("%s %s; that is put back, because the whole run depends on it.", name, change)


class EventLoop:
    """The loop of users' coroutines, in a thread of its own for as long as the process lives: what
    they keep open between two calls, such as an HTTP session, belongs to one loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="rewards", daemon=True)
        self.thread.start()

    def result(self, future: Future[T | Raised]) -> T:
        """A coroutine's result. Raises what it raised, or RuntimeError where one of its tasks has
        ended the loop, as SystemExit does."""
        while self.thread.is_alive():
            wait([future], timeout=1.0)
            if future.done():
                outcome = future.result()
                if isinstance(outcome, Raised):
                    raise outcome.error
                return outcome
        event_loop.cache_clear()
        # Its tasks are garbage, and would be logged when they are collected, in whatever runs then.
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.loop.close()
        raise RuntimeError("a task of it ended the event loop, as sys.exit does")

    def cancel(self, future: Future[T | Raised]) -> None:
        """Cancel a coroutine, unless its loop has ended."""
        if not self.loop.is_closed():
            future.cancel()


@cache
def event_loop() -> EventLoop:
    """The loop that all coroutines share, so that they run at the same time."""
    return EventLoop()


@dataclass(frozen=True, slots=True)
class Raised:
    """What a coroutine raised, as a value."""

    error: BaseException


async def catch_exits(awaitable: Awaitable[T]) -> T | Raised:
    """What an awaitable gives. SystemExit and the like would end the loop: they are values."""
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return Raised(error)
