"""Console output of a running stage: its progress bar, messages above it, and interrupts."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from accord.pipeline.progress import Progress
from accord.settings.recipe import StagePlan


def run_with_bar(plan: StagePlan, work: Iterator[Progress], console: Console) -> None:
    """Run a stage's work to its end with a progress bar.

    The first Ctrl-C closes the generator between two units of work and raises KeyboardInterrupt.
    """
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with deferred_interrupts() as interrupted, Bar(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=None, note="")
        for progress in work:
            bar.update(task, completed=progress.done, total=progress.total or 1, note=progress.note)
            if interrupted():
                work.close()  # type: ignore[attr-defined]
                raise KeyboardInterrupt
        bar.update(task, note="")


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C (or SIGTERM) to the end of the current unit of work; the second raises
    KeyboardInterrupt at once. Yields a function that returns whether there was one."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not arrive
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def messages_above_bar(console: Console) -> Iterator[None]:
    """Print accord's log messages above the progress bar, without a prefix."""
    logger = logging.getLogger("accord")
    handler = RichHandler(console=console, show_path=False, show_time=False, show_level=False)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
