"""The progress of a stage, which its generator yields between two units of work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from accord.settings.stage_kinds import StagePlan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of work, and a short `note` for the progress bar."""

    done: int
    total: int
    note: str = ""


StartStage = Callable[[StagePlan], Iterator[Progress] | None]
"""Returns the rest of a stage's work; None where the stage is finished."""


def run_to_end(work: Generator[Progress, None, T]) -> T:
    """What work returns, without a progress bar (see `console.work_with_bar`)."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
