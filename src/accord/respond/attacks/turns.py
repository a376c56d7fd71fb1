"""What every transform of an attack works on: a conversation, and what is known beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from accord.records import Message

Turns = tuple[Message, ...]
SURE = "Sure, here is what you asked for:\n\n1."
"""The beginning of an answer that complies, where a suite gives none."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a transform may use beside the conversation: `rng` is the attempt's own generator, and
    `target` how an answer that complies would begin, "" where that is not known. `shots` is the
    number of examples of a many-shot attack."""

    rng: random.Random
    target: str = ""
    shots: int = 32

    @property
    def opening(self) -> str:
        """How the answer is to begin."""
        return self.target or SURE


Transform = Callable[[Turns, Occasion], Turns]


def request_of(turns: Turns) -> str:
    """The text of the last turn of the user's, which is what an attack carries."""
    return turns[_last_user(turns)].content


def with_request(turns: Turns, text: str) -> Turns:
    """The conversation with another text in its last turn of the user's."""
    index = _last_user(turns)
    return (*turns[:index], replace(turns[index], content=text), *turns[index + 1 :])


def before_request(turns: Turns, inserted: Turns) -> Turns:
    """The conversation with turns inserted before its last turn of the user's."""
    index = _last_user(turns)
    return (*turns[:index], *inserted, *turns[index:])


def with_system(turns: Turns, text: str) -> Turns:
    """The conversation with a system turn: the text stands before what its own one says."""
    if turns and turns[0].role == "system":
        return (replace(turns[0], content=f"{text}\n\n{turns[0].content}"), *turns[1:])
    first = Message("system", text, context=turns[0].context)  # `tools` belong to the first turn
    return (first, replace(turns[0], context=""), *turns[1:])


def _last_user(turns: Turns) -> int:
    return max(i for i, turn in enumerate(turns) if turn.role == "user")
