"""Which format some columns are, and by which names a file calls them.

A column has one name here and may have others in a file (`ALIASES`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from accord.errors import DataError
from accord.records import Source

Format = Literal[
    "battle",
    "preference",
    "implicit preference",
    "ranking",
    "responses",
    "unpaired",
    "rating",
    "prompt-completion",
    "messages",
    "text",
    "prompt",
]
# In order: the first whose columns are all there is the format.
COLUMNS: dict[Format, tuple[str, ...]] = {
    "battle": ("model_a", "model_b", "winner"),
    "preference": ("prompt", "chosen", "rejected"),
    "implicit preference": ("chosen", "rejected"),
    "ranking": ("prompt", "responses", "ranks"),
    "responses": ("prompt", "responses"),
    "unpaired": ("prompt", "completion", "label"),
    "rating": ("prompt", "completion", "score"),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
}
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "input"),
    "completion": ("completion", "response", "output", "answer"),
    "messages": ("messages", "conversations", "conversation"),
    "score": ("score", "rating"),
}
# Read beside any format that has a prompt.
BESIDES = ("system", "input", "margin", "meta", "finished")


def names_of(columns: Collection[str]) -> dict[str, str]:
    """Each known column that is there, to its name in the file."""
    known = dict.fromkeys([c for wanted in COLUMNS.values() for c in wanted] + list(BESIDES))
    found = {c: next((n for n in ALIASES.get(c, (c,)) if n in columns), None) for c in known}
    if found["prompt"] == "input":
        found["input"] = None  # it is the prompt itself, not something to add to it
    return {c: name for c, name in found.items() if name is not None}


def formats_of(columns: Collection[str]) -> list[Format]:
    """Every format whose columns are all there, the fullest first."""
    names = names_of(columns)
    return [form for form, wanted in COLUMNS.items() if all(c in names for c in wanted)]


def detect(columns: Collection[str]) -> Format:
    """The format of rows with these columns. Raises DataError where they are no format's."""
    formats = formats_of(columns)
    if not formats:
        wanted = "; ".join(", ".join(names) for names in COLUMNS.values())
        raise DataError(
            f"The columns {', '.join(sorted(columns)) or '(none)'} are those of no known format. "
            f"Rename them to one of: {wanted}."
        )
    return formats[0]


@dataclass(frozen=True, slots=True)
class Cells:
    """The known cells of one row, by accord's names, and the names they have in the file."""

    values: Mapping[str, Any]
    names: Mapping[str, str]
    source: Source
    notes: Counter[str] = field(default_factory=Counter)

    def get(self, column: str) -> Any:
        return self.values.get(self.names.get(column, column))

    def name(self, column: str) -> str:
        return self.names.get(column, column)
