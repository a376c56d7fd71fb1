"""What a stage is doing between two units of its work: reading, tokenising, sampling, scoring.

Such steps take minutes on real data, and only the code that takes them knows how far it is. It
says so in a log of its own, which costs next to nothing where nobody shows it; the progress bar of
a stage does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("accord.activity")
INTERVAL = 0.2  # seconds between two reports of one activity


@dataclass(slots=True)
class Activity:
    """What this process does now, and how many reports or items there were so far."""

    text: str = ""
    count: int = 0


LATEST = Activity()
"""Read by the thread that gives the signs of life of a process."""


def report_activity(text: str) -> None:
    """Say in a few words what is done now, such as "loading gemma"; "" ends it."""
    LATEST.text = text
    LATEST.count += 1
    log.debug("%s", text)


def with_activity(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """The items, reporting how many of them are done: "tokenising 1,200/4,000"."""
    reported = 0.0
    for done, item in enumerate(items):
        LATEST.count += 1
        now = time.monotonic()
        if now - reported >= INTERVAL:
            reported = now
            report_activity(describe_activity(text, done, total))
        yield item
    report_activity("")


def describe_activity(text: str, done: int, total: int | None) -> str:
    """The activity with the number done, of all where that is known."""
    return f"{text} {done:,}" if total is None else f"{text} {done:,}/{total:,}"
