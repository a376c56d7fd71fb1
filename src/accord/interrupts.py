"""The signals that end a run: Ctrl-C, a closed terminal, a batch system's or the machine's."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
SECONDS_TO_FORCE = 1.0  # between the first signal and one that ends the run at once


@contextmanager
def deferred_interrupts(
    on_first: Callable[[], object] | None = None,
) -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C, or other signal of INTERRUPTS, to the end of the current unit of
    work; another one, a second later or more, raises KeyboardInterrupt at once. Yields a function
    that returns whether there was one. `on_first` is called at the first, to acknowledge it.

    A SIGHUP that is ignored remains so, as `nohup` asks for.
    """
    received: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        _detach_from_closed_terminal()
        received.append(time.monotonic())
        # A launcher passes on to its processes what the terminal has sent them already.
        if received[-1] - received[0] >= SECONDS_TO_FORCE:
            raise KeyboardInterrupt
        if len(received) == 1 and on_first is not None:
            on_first()

    previous = {}
    sys.stdout, sys.stderr = _Terminal(sys.stdout), _Terminal(sys.stderr)
    streams = sys.stdout, sys.stderr
    try:
        for number in INTERRUPTS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread, where signals do not arrive
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if (sys.stdout, sys.stderr) == streams:
            sys.stdout, sys.stderr = streams[0].stream, streams[1].stream


class _Terminal:
    """A stream that loses what is written while its terminal closes, before the signal arrives."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self._until_closed(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._until_closed(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _until_closed(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _detach_from_closed_terminal()


def _detach_from_closed_terminal() -> None:
    """Send what the program still prints to nowhere, where its terminal has been closed: a write
    would fail, and the run would end without its checkpoint."""
    for descriptor in (1, 2):
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
