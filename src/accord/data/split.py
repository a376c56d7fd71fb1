"""Train and test rows that share no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

from accord.errors import DataError
from accord.records import Record, Text, prompt_text

R = TypeVar("R", bound=Record)


def split_by_prompt(records: Sequence[R], fraction: float, seed: int) -> tuple[list[R], list[R]]:
    """Train and test records, in their order, with `fraction` of the distinct prompts in test.

    All records of a prompt go to the same side. Which prompts are held out depends on their text
    and `seed` only, not on the order of the records. Plain texts are split by the text itself.
    Raises DataError where there are fewer than two prompts.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    prompts = {_split_key(record) for record in records}
    if len(prompts) < 2:
        raise DataError(
            f"{len(records)} rows with {len(prompts)} distinct prompts can't be split into train "
            "and test. Give at least two prompts."
        )
    ordered = sorted(prompts, key=lambda text: (_seeded_digest(text, seed), text))
    held_out = set(ordered[: min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)])
    train = [record for record in records if _split_key(record) not in held_out]
    test = [record for record in records if _split_key(record) in held_out]
    return train, test


def _split_key(record: Record) -> str:
    return record.text if isinstance(record, Text) else prompt_text(record.prompt)


def _seeded_digest(text: str, seed: int) -> bytes:
    """A 128-bit digest, uniform over seeds and texts; sorting by it shuffles the texts."""
    return blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()
