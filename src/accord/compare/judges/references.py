"""Reference answers that a judge is shown: a right answer to each prompt, by the prompt's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from accord.compare.dataset import load_records
from accord.compare.texts import shorten
from accord.errors import DataError
from accord.records import Prompt, PromptOnly, prompt_text

MAX_COLUMNS = 12  # that a message lists


def read_references(path: str, column: str) -> dict[str, str]:
    """The reference of each prompt in a data set or store, by `reference_key`.

    Prompts without one are left out. Raises DataError where a reference is no text, two rows give
    one prompt different ones, or no row has any.
    """
    records, _ = load_records(path, "prompts")
    references: dict[str, str] = {}
    columns: set[str] = set()
    for record in records:
        assert isinstance(record, PromptOnly)
        columns.update(record.meta)
        text = _reference(record, column)
        if text is None:
            continue
        first = references.setdefault(reference_key(record.prompt), text)
        if first != text:
            raise DataError(
                f"{record.source} gives the prompt {shorten(repr(prompt_text(record.prompt)))} "
                f"another `{column}` than an earlier row: {shorten(repr(text))} and "
                f"{shorten(repr(first))}. Keep one reference for each prompt."
            )
    if not references:
        listed = ", ".join(sorted(columns)[:MAX_COLUMNS]) or "none"
        raise DataError(
            f"No row of {path} has a reference in the column `{column}`. Its columns beside the "
            f"prompt are: {listed}. Name one with reference_column."
        )
    return references


def reference_key(prompt: Prompt) -> str:
    """What a prompt is looked up by: one that is plain text and one user's turn are the same."""
    return prompt_text(prompt)


def find_reference(references: Mapping[str, str], prompt: Prompt) -> str | None:
    """The reference of a prompt."""
    return references.get(reference_key(prompt))


def _reference(record: PromptOnly, column: str) -> str | None:
    value: Any = record.meta.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{record.source} has a `{column}` that is no text: {shorten(json.dumps(value))}. Give "
            f"a text, or another reference_column."
        )
    return str(value)
