"""The texts of evaluation sets: published ones by their columns, any other by its prompts."""

from __future__ import annotations

from collections.abc import Iterator

from accord.compare.store.connection import is_store
from accord.data.files import DataRow, read_rows
from accord.data.stream import read_columns
from accord.errors import DataError
from accord.records import Source

TEXT_COLUMNS = ("turns", "goal", "behavior", "forbidden_prompt")
"""Columns that hold what is asked: of MT-bench (Zheng et al. 2023), AdvBench (Zou et al. 2023),
HarmBench (Mazeika et al. 2024) and StrongREJECT (Souly et al. 2024)."""


def read_texts(path: str) -> list[tuple[str, Source]] | None:
    """The texts of a published evaluation set, each turn by itself; None for other data.

    Raises DataError where the set's column holds no text.
    """
    if is_store(path):
        return None
    columns = read_columns(path, "prompts").names
    column = next((c for c in columns if c.casefold() in TEXT_COLUMNS), None)
    if "prompt" in columns:  # of MT-bench too, where it is a list of texts
        column = "prompt" if _holds_turns(path) else None
    if column is None:
        return None
    texts = [(text, row.source) for row in read_rows(path) for text in _texts(row, column)]
    if not texts:
        raise DataError(
            f"The evaluation set {path} has the column `{column}`, and no text in it. Give a text, "
            f"or a list of texts, in each row."
        )
    return texts


def _holds_turns(path: str) -> bool:
    """Whether the first prompt is a list of texts, and not of messages."""
    prompts = (row.values.get("prompt") for row in read_rows(path))
    first = next((prompt for prompt in prompts if prompt is not None), None)
    return isinstance(first, list) and bool(first) and all(isinstance(turn, str) for turn in first)


def _texts(row: DataRow, column: str) -> Iterator[str]:
    value = row.values.get(column)
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text.strip():
            yield text
