"""Tokens that a tokenizer gives and the model does not know."""

from __future__ import annotations

from collections.abc import Iterable

from accord.errors import ModelError
from accord.lm.model import LanguageModel


def check_token_ids(lm: LanguageModel, rows: Iterable[Iterable[int]]) -> None:
    """Raise ModelError for a token id in the rows that the model has no embedding for.

    A tokenizer may have such tokens where nobody uses them, as for padding or images.
    """
    known = int(lm.inner.get_input_embeddings().weight.shape[0])
    largest = max((max(ids, default=0) for ids in rows), default=0)
    if largest >= known:
        raise ModelError(
            f"The tokenizer of {lm.name} writes the token "
            f"{lm.tokenizer.convert_ids_to_tokens(largest)!r} as number {largest}, and the model "
            f"has embeddings for the numbers below {known} only. Save the tokenizer that belongs "
            f"to the model into its folder, or give the model more embeddings "
            f"(resize_token_embeddings) and train them."
        )
