"""The progress of a stage, which its generator yields between two units of work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of work, and a short `note` for the progress bar."""

    done: int
    total: int
    note: str = ""
