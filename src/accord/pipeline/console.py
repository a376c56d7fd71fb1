"""What is seen of a stage at work: a bar, messages above it, and how an interrupt ends it."""

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


def show(plan: StagePlan, work: Iterator[Progress], console: Console) -> None:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with interrupts() as interrupted, Bar(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=None, note="")
        for progress in work:
            bar.update(task, completed=progress.done, total=progress.total or 1, note=progress.note)
            if interrupted():
                work.close()  # type: ignore[attr-defined]
                raise KeyboardInterrupt
        bar.update(task, note="")


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) waits for the piece of work in hand; the second does not."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not arrive
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def messages_above(console: Console) -> Iterator[None]:
    """accord's messages above the progress bar, as they are."""
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
