"""A reward that costs nothing: how many different words a text has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distinct(completions: Sequence[str], **_: Any) -> list[float]:
    return [float(len(set(text.split()))) for text in completions]
