"""The kinds of records that methods need, and the row formats that can be read as each."""

from __future__ import annotations

from typing import Literal

from accord.data.columns import Format
from accord.records import (
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Text,
)

Kind = Literal[
    "text",
    "demonstrations",
    "comparisons",
    "rankings",
    "ratings",
    "prompts",
    "preferences",
    "sft",
    "kto",
    "any",
]
KINDS: dict[Kind, tuple[type[Record], ...]] = {
    "text": (Text,),
    "demonstrations": (Demonstration,),
    "comparisons": (Comparison,),
    "rankings": (Ranking,),
    "ratings": (Rating,),
    "prompts": (PromptOnly,),
    "preferences": (Comparison, Ranking),
    "sft": (Demonstration, Text),
    "kto": (Rating, Comparison, Ranking),
    "any": (PromptOnly, Text, Demonstration, Comparison, Ranking, Rating),
}
PAIR_FORMATS: set[Format] = {"preference", "implicit preference", "labelled pair"}
# The formats that can be read as a kind; those that need no conversion come first.
FORMATS_BY_KIND: dict[Kind, tuple[Format, ...]] = {
    "text": ("text",),
    "demonstrations": (
        "prompt-completion",
        "messages",
        "preference",
        "implicit preference",
        "labelled pair",
        "responses",
    ),
    "comparisons": ("preference", "implicit preference", "labelled pair"),
    "rankings": ("ranking",),
    "ratings": ("unpaired", "rating", "preference", "implicit preference", "labelled pair"),
    # The format with the most columns first: a response may show that the prompt is a conversation.
    "prompts": (
        "preference",
        "ranking",
        "responses",
        "unpaired",
        "rating",
        "prompt-completion",
        "prompt",
        "messages",
        "implicit preference",
        "labelled pair",
    ),
    "preferences": ("preference", "implicit preference", "labelled pair", "ranking"),
    "sft": (
        "prompt-completion",
        "messages",
        "text",
        "preference",
        "implicit preference",
        "labelled pair",
        "responses",
    ),
    "kto": (
        "unpaired",
        "rating",
        "preference",
        "implicit preference",
        "labelled pair",
        "ranking",
    ),
    "any": (
        "preference",
        "ranking",
        "responses",
        "unpaired",
        "rating",
        "prompt-completion",
        "implicit preference",
        "labelled pair",
        "messages",
        "prompt",
        "text",
    ),
}
FORMAT_USES: dict[Format, str] = {
    "battle": "an arena's ratings: `accord arena battles=FILE`",
    "preference": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "implicit preference": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "labelled pair": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "ranking": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "responses": "`sft`, as demonstrations; `accord sample` and the online methods, as prompts",
    "unpaired": "`kto`",
    "rating": "`kto`, whose `desirable_from` says from which score on a response is desirable",
    "prompt-completion": "`sft`",
    "messages": "`sft`",
    "text": "`sft`",
    "prompt": "`ppo` or `accord sample`, as prompts",
}
