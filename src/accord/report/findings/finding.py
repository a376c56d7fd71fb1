"""A finding: one sentence or two on the page, with its level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "good", "note"]
LEVELS: tuple[Level, ...] = ("warning", "good", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and whether it is a warning, good news or neither."""

    level: Level
    text: str
