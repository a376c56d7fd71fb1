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
PAIR_FORMATS: tuple[Format, ...] = ("preference", "implicit preference", "labelled pair")
# The formats that can be read as a kind; those that need no conversion come first.
FORMATS_BY_KIND: dict[Kind, tuple[Format, ...]] = {
    "text": ("text",),
    "demonstrations": (
        "prompt-completion",
        "messages",
        *PAIR_FORMATS,
        "responses",
    ),
    "comparisons": PAIR_FORMATS,
    "rankings": ("ranking",),
    "ratings": ("unpaired", "rating", *PAIR_FORMATS),
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
    "preferences": (*PAIR_FORMATS, "ranking"),
    "sft": (
        "prompt-completion",
        "messages",
        "text",
        *PAIR_FORMATS,
        "responses",
    ),
    "kto": (
        "unpaired",
        "rating",
        *PAIR_FORMATS,
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
_PAIR_USES = "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`"
FORMAT_USES: dict[Format, str] = {
    "battle": "an arena's ratings: `accord arena battles=FILE`",
    "preference": _PAIR_USES,
    "implicit preference": _PAIR_USES,
    "labelled pair": _PAIR_USES,
    "ranking": _PAIR_USES,
    "responses": "`sft`, as demonstrations; `accord sample` and the online methods, as prompts",
    "unpaired": "`kto`",
    "rating": "`kto`, whose `desirable_from` says from which score on a response is desirable",
    "prompt-completion": "`sft`",
    "messages": "`sft`",
    "text": "`sft`",
    "prompt": "`ppo` or `accord sample`, as prompts",
}
