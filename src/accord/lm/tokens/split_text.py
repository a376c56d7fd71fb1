"""Plain text to pieces of tokens, none of which is lost."""

from __future__ import annotations

from typing import Any

from accord.lm.packing import PromptGroup
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.template import encode_text, start_ids
from accord.records import Text


def split_text(
    record: Text, tokenizer: Any, max_length: int, eos_ids: frozenset[int]
) -> list[PromptGroup]:
    """The pieces of a text, each behind the tokens that begin a text (`start_ids`), or else behind
    the token before it. The text ends with EOS: its own (rendered text has one), or one
    that is added."""
    start = start_ids(tokenizer)
    ids = encode_text(tokenizer, record.text)
    if start and tuple(ids[: len(start)]) == start:
        ids = ids[len(start) :]
    if not ids:
        raise UnusableRow("the text is empty")
    ends = (i for i, token in enumerate(ids) if token in eos_ids)
    if not any(not str(tokenizer.decode(ids[i + 1 :])).strip() for i in ends):
        ids.append(tokenizer.eos_token_id)
    step = max_length - max(1, len(start))
    pieces = range(0 if start else 1, len(ids), step)
    return [
        PromptGroup(start or (ids[i - 1],), (tuple(ids[i : i + step]),), (0,), source=record.source)
        for i in pieces
    ]
