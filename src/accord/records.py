"""Prompts, responses and preferences as plain text records, and the JSON form of a prompt.

Every record knows its `Source`, so that a problem with it can be reported with file and line.
Records hold text only; tokens begin in `accord.lm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = str | tuple[Message, ...]
"""Plain text to be continued verbatim, or a conversation that the chat template renders."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record was read: a path (or hub name, or store), and the 1-based line or row.

    With `in_memory`, `path` names the type of a Python object, such as `list`; `line` is its row.
    """

    path: str = "memory"
    line: int | None = None
    in_memory: bool = False

    def __str__(self) -> str:
        if self.line is None:
            return self.path
        return (
            f"row {self.line} of the {self.path}" if self.in_memory else f"{self.path}:{self.line}"
        )


UNKNOWN = Source()


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """A prompt to respond to. `meta` holds the row's other columns (such as the world's kind)."""

    prompt: Prompt
    source: Source = UNKNOWN
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text for language modelling: every token is learned."""

    text: str
    source: Source = UNKNOWN


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the response to imitate.

    `finished` is False for a response that was cut at the token limit.
    """

    prompt: Prompt
    response: str
    source: Source = UNKNOWN
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, `chosen` preferred to `rejected`.

    A response that was cut at the token limit when it was sampled is not finished: it is learned
    without EOS.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
    source: Source = UNKNOWN
    chosen_finished: bool = True
    rejected_finished: bool = True


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to one prompt; `ranks[i]` is the rank of `responses[i]`, 0 best, equal = tie.

    `finished[i]` is False for a response that was cut at the token limit; None: all ended.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    source: Source = UNKNOWN
    finished: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.responses) != len(self.ranks):
            raise ValueError(
                f"{len(self.responses)} responses but {len(self.ranks)} ranks in {self.source}"
            )


@dataclass(frozen=True, slots=True)
class Rating:
    """One response with an absolute score; a thumbs-up is 1.0, a thumbs-down 0.0.

    `finished` is False for a response that was cut at the token limit.
    """

    prompt: Prompt
    response: str
    score: float
    source: Source = UNKNOWN
    finished: bool = True


Record = PromptOnly | Text | Demonstration | Comparison | Ranking | Rating


@dataclass(frozen=True, slots=True)
class Response:
    """A model's response, and the settings it was sampled with.

    `logp` is the sum of its tokens' log-probabilities (natural log) under the sampling model at
    the sampling temperature; `finished` is False where it was cut at the token limit.
    """

    prompt: Prompt
    text: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    logp: float | None = None
    tokens: int | None = None
    finished: bool = True


Outcome = Literal["a", "b", "tie", "both_bad"]


@dataclass(frozen=True, slots=True)
class Battle:
    """One comparison between two models on one prompt."""

    model_a: str
    model_b: str
    outcome: Outcome


def ranks_from_scores(scores: Sequence[float]) -> tuple[int, ...]:
    """The rank of each response: how many have a higher score; equal scores tie, 0 is best."""
    return tuple(sum(other > score for other in scores) for score in scores)


def labels_from_ranks(ranks: Sequence[int]) -> list[bool | None]:
    """Whether each response is desirable: it beats more of the others than beat it.

    None for a response in the middle, which beats as many as beat it.
    """
    balances = [sum((rank < other) - (rank > other) for other in ranks) for rank in ranks]
    return [None if balance == 0 else balance > 0 for balance in balances]


def prompt_text(prompt: Prompt) -> str:
    """The prompt as people read it: the text, or each turn behind its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return "\n\n".join(f"{m.role}: {m.content}" for m in prompt)


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """The prompt as JSON files hold it: a string, or a list of `{role, content}`."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": m.role, "content": m.content} for m in prompt]


def prompt_from_json(value: Any) -> Prompt:
    """The inverse of `prompt_json`. Raises ValueError when the value is neither form."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        messages = []
        for turn in value:
            if not (
                isinstance(turn, Mapping)
                and isinstance(turn.get("role"), str)
                and isinstance(turn.get("content"), str)
            ):
                raise ValueError(f"a turn must be {{role, content}}, got {turn!r}")
            messages.append(Message(turn["role"], turn["content"]))
        if messages:
            return tuple(messages)
    raise ValueError(f"a prompt must be text or a list of {{role, content}}, got {value!r}")
