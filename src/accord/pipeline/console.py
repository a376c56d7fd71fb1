"""Console output of a running stage: its progress bar, and messages above it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column

from accord.interrupts import deferred_interrupts
from accord.pipeline.progress import Progress
from accord.runs.activity import log as activity_log
from accord.settings.recipe import StagePlan

_ENDING = "interrupted: ends after this step; once more to end at once"


def run_with_bar(plan: StagePlan, work: Iterator[Progress], console: Console) -> None:
    """Run a stage's work to its end with a progress bar (`work_with_bar`)."""
    work_with_bar(plan.name, work, console)


def work_with_bar(
    name: str, work: Iterator[Progress], console: Console, *, transient: bool = False
) -> Any:
    """Run work to its end with a progress bar, and return what its generator returns.

    A `transient` bar is removed at the end, and not shown in a file.

    What the work does between two units (see `runs.activity`) is shown beside the bar. The first
    Ctrl-C closes the generator between two units of work and raises KeyboardInterrupt.
    """
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
    )
    hidden = transient and not console.is_terminal
    bar = Bar(*columns, console=console, refresh_per_second=4, transient=transient, disable=hidden)
    task = bar.add_task(name, total=None, note="preparing")
    with deferred_interrupts(lambda: bar.update(task, note=_ENDING)) as interrupted, bar:
        with _activity_beside(bar, task):
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    result = end.value
                    break
                total = progress.total or 1
                note = _ENDING if interrupted() else progress.note
                bar.update(task, completed=progress.done, total=total, note=note)
                if interrupted():
                    work.close()  # type: ignore[attr-defined]
                    raise KeyboardInterrupt
        bar.update(task, note="")
    return result


@contextmanager
def _activity_beside(bar: Bar, task: TaskID) -> Iterator[None]:
    """Show reported activities as the note of a bar."""
    handler = logging.Handler()
    handler.emit = lambda record: bar.update(  # type: ignore[method-assign]
        task, note=record.getMessage(), refresh=True
    )
    level, propagate = activity_log.level, activity_log.propagate
    activity_log.addHandler(handler)
    activity_log.setLevel(logging.DEBUG)
    activity_log.propagate = False
    try:
        yield
    finally:
        activity_log.removeHandler(handler)
        activity_log.setLevel(level)
        activity_log.propagate = propagate


def _describe_message(record: logging.LogRecord) -> str:
    """A log message as it is, after the word Warning if it is one."""
    text = record.getMessage()
    return f"Warning: {text}" if record.levelno >= logging.WARNING else text


@contextmanager
def messages_above_bar(console: Console) -> Iterator[None]:
    """Print accord's log messages above the progress bar, each one time in a run.

    A warning says that it is one. Warnings of libraries to their developers (that a name will
    change) are of no use to those who run accord, and are not shown.
    """
    logger = logging.getLogger("accord")
    handler = RichHandler(console=console, show_path=False, show_time=False, show_level=False)
    printed: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text in printed:
            return False
        printed.add(text)
        return True

    handler.addFilter(is_new)
    formatter = logging.Formatter()
    formatter.format = _describe_message  # type: ignore[method-assign]
    handler.setFormatter(formatter)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
