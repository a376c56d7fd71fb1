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

    A SIGHUP that is ignored remains so, as `nohup` asks for. What is then printed to a closed
    terminal is lost, and the run goes on.
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
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_until_closed, streams)
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
        sys.stdout, sys.stderr = streams


def _until_closed(stream: Any) -> Any:
    """The stream; a terminal as one that loses what is written once it is closed."""
    return _Terminal(stream) if stream is not None and stream.isatty() else stream


class _Terminal:
    """A terminal's stream, of which a write to the closed terminal is no error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _lost_where_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _lost_where_closed():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _lost_where_closed() -> Iterator[None]:
    try:
        yield
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
