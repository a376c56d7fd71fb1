"""What people and files say: prompts, responses, and judgements about responses.

Every record knows its `Source`, so that a problem with it can be reported with file and line.
Records hold text only; tokens begin in `accord.lm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = str | tuple[Message, ...]
"""Plain text to be continued as it stands, or a conversation that the chat template renders."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record was read: a file (or store), and the 1-based line or row."""

    place: str = "memory"
    line: int | None = None

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}:{self.line}"


UNKNOWN = Source()


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """A prompt to respond to. `meta` carries what else the row said (such as the world's kind)."""

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
    without an end.
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
    """K responses to one prompt; `ranks[i]` is the place of `responses[i]`, 0 best, equal = tie.

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
    """One response with a score of its own; a thumbs-up is 1.0, a thumbs-down 0.0.

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
    """What a model answered, and with which settings it was sampled.

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
