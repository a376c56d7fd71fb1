"""The setting for text that looks like a dialogue, which every stage that reads rows has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from accord.settings.base import UnlessDefault

DialogueText = Annotated[
    Literal["turns", "keep"],
    UnlessDefault,
    Field(
        description="What becomes of text that looks like a dialogue (a line with `Human:`, then "
        "one with `Assistant:`): `turns` reads it as a conversation, if the tokenizer has a chat "
        "template; `keep` leaves it as text."
    ),
]
