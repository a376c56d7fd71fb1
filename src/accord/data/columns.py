"""Which format a set of columns is, and the names that a file may use for each column.

A column has one name here and may have others in a file (`ALIASES`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from accord.data.pair_names import find_pair
from accord.errors import DataError
from accord.records import Source

Format = Literal[
    "battle",
    "preference",
    "implicit preference",
    "labelled pair",
    "ranking",
    "responses",
    "unpaired",
    "rating",
    "prompt-completion",
    "messages",
    "text",
    "prompt",
]
DialogueText = Literal["turns", "keep", "no template"]
"""What becomes of text that looks like a dialogue (Human:, Assistant:): it is read as turns, or
stays text, on request or because the tokenizer has no chat template that could render turns."""

# In order: the first format whose columns are all present is the one detected.
COLUMNS: dict[Format, tuple[str, ...]] = {
    "battle": ("model_a", "model_b", "winner"),
    "preference": ("prompt", "chosen", "rejected"),
    "implicit preference": ("chosen", "rejected"),
    "labelled pair": ("response_a", "response_b", "preferred"),
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
# Read in addition to the columns of any format that has a prompt.
OPTIONAL_COLUMNS = ("system", "input", "margin", "meta", "finished")


def match_columns(columns: Collection[str]) -> dict[str, str]:
    """Maps each known column that is present to its name in the file."""
    known = dict.fromkeys([c for names in COLUMNS.values() for c in names] + list(OPTIONAL_COLUMNS))
    for column in COLUMNS["labelled pair"]:
        del known[column]  # these have names that `find_pair` finds together
    matches = {c: next((n for n in ALIASES.get(c, (c,)) if n in columns), None) for c in known}
    if matches["prompt"] == "input":
        matches["input"] = None  # it is the prompt itself, not an addition to it
    pair = {} if matches["chosen"] and matches["rejected"] else find_pair(columns)
    return {c: name for c, name in matches.items() if name is not None} | pair


def matching_formats(columns: Collection[str]) -> list[Format]:
    """Every format whose columns are all present, the one with the most columns first."""
    names = match_columns(columns)
    return [form for form, required in COLUMNS.items() if all(c in names for c in required)]


def detect_format(columns: Collection[str]) -> Format:
    """The format of rows with these columns. Raises DataError where no format matches."""
    formats = matching_formats(columns)
    if not formats:
        expected = "; ".join(
            ", ".join(COLUMNS[form]) for form in COLUMNS if form != "labelled pair"
        )
        raise DataError(
            f"The columns {', '.join(sorted(columns)) or '(none)'} are those of no known format. "
            f"Rename them to one of: {expected}."
        )
    return formats[0]


@dataclass(frozen=True, slots=True)
class Cells:
    """One row's values, and the name that each known column has in its file.

    `notes` counts the conversions that reading the row made. `dialogue_text`: whether text that
    looks like a dialogue is read as turns.
    """

    values: Mapping[str, Any]
    names: Mapping[str, str]
    source: Source
    notes: Counter[str] = field(default_factory=Counter)
    dialogue_text: DialogueText = "turns"

    def get(self, column: str) -> Any:
        """The value of a known column, None where the row has none."""
        return self.values.get(self.names.get(column, column))

    def name(self, column: str) -> str:
        """The column's name in the file."""
        return self.names.get(column, column)
