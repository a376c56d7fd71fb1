"""What is read back from a preference store: prompts, responses and verdicts with their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from accord.compare.store.verdicts import Item
from accord.records import Outcome, Prompt, Response

VerdictKind = Literal["pair", "ranking", "rating"]


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt with its id."""

    id: int
    prompt: Prompt
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with its id and its prompt's."""

    id: int
    prompt_id: int
    response: Response


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict with its id, and its items in the order in which they were added."""

    id: int
    prompt_id: int
    kind: VerdictKind
    annotator: str
    round: int
    outcome: Outcome | None
    reason: str | None
    seconds: float | None
    created: str
    items: tuple[Item, ...]


class JudgedResponse(NamedTuple):
    """A response's text, the model that wrote it, and whether it ended with EOS."""

    text: str
    model: str
    finished: bool
