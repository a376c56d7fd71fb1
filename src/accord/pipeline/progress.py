"""How far a stage is: what every stage yields between two pieces of work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` pieces of work; `note` says how it goes, in a few words."""

    done: int
    total: int
    note: str = ""
