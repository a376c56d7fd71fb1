"""Refuses token ids of a tokenizer for which the model has no embedding."""

from __future__ import annotations

from collections.abc import Iterable

from accord.errors import ModelError
from accord.lm.model import LanguageModel


def check_token_ids(lm: LanguageModel, rows: Iterable[Iterable[int]]) -> None:
    """Raise ModelError for a token id in the rows that the model has no embedding for.

    A tokenizer may have such tokens where no row uses them, as for padding or images.
    """
    num_embeddings = int(lm.inner.get_input_embeddings().weight.shape[0])
    largest = max((max(ids, default=0) for ids in rows), default=0)
    if largest >= num_embeddings:
        raise ModelError(
            f"The tokenizer of {lm.name} writes the token "
            f"{lm.tokenizer.convert_ids_to_tokens(largest)!r} as number {largest}, and the model "
            f"has embeddings for the numbers below {num_embeddings} only. Save the tokenizer that "
            f"belongs to the model into its folder, or give the model more embeddings "
            f"(resize_token_embeddings) and train them."
        )
