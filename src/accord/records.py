"""Prompts, responses and preferences as plain text records, and the JSON form of a prompt.

Every record knows its `Source`, so that a problem with it can be reported with file and line.
Records hold text only; tokens begin in `accord.lm`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from accord.reasoning import Reasoned, split_reasoning

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `fields` holds what chat templates read of a turn beside its role and content, such as
    `tool_calls` and `reasoning_content`; `{"content": null}` is a turn without content. `context`,
    of a conversation's first turn, holds what a template receives beside the turns, such as
    `tools`. Both are JSON objects as text, or "" where there is nothing, so that messages can be
    compared and hashed. `learn` is False for an assistant's turn that its row marks as not to be
    learned.
    """

    role: Role
    content: str
    fields: str = ""
    context: str = ""
    learn: bool = field(default=True, compare=False)


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

    def without_folder(self) -> Source:
        """The source with the name of its file alone, for lines that people read."""
        is_path = not self.in_memory and "://" not in self.path
        return replace(self, path=Path(self.path).name) if is_path else self


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

    `finished` is False for a response that was cut at the token limit. `fields` are the response's
    as a `Message` has them; `learn` is False where the row marks the response as not to be learned.
    """

    prompt: Prompt
    response: str
    source: Source = UNKNOWN
    finished: bool = True
    fields: str = ""
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, `chosen` preferred to `rejected`.

    A response that was cut at the token limit when it was sampled is not finished: it is learned
    without EOS. The fields of both are as a `Message` has them. `probability` is a soft label: that
    of `chosen` being the better one, from ½ to 1; None is certainty.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
    source: Source = UNKNOWN
    chosen_finished: bool = True
    rejected_finished: bool = True
    chosen_fields: str = ""
    rejected_fields: str = ""
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to one prompt; `ranks[i]` is the rank of `responses[i]`, 0 best, equal = tie.

    `finished[i]` is False for a response that was cut at the token limit; None: all ended.
    `fields[i]` are the response's as a `Message` has them; None: no response has any. `votes` are
    the ranks that each of several annotators gave, and `ranks` is then the order that they give
    together (`borda_ranks`).
    """

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    source: Source = UNKNOWN
    finished: tuple[bool, ...] | None = None
    fields: tuple[str, ...] | None = None
    votes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for ranks in (self.ranks, *self.votes):
            if len(self.responses) != len(ranks):
                raise ValueError(
                    f"{len(self.responses)} responses but {len(ranks)} ranks in {self.source}"
                )


@dataclass(frozen=True, slots=True)
class Rating:
    """One response with an absolute score; a thumbs-up is 1.0, a thumbs-down 0.0.

    `finished` is False for a response that was cut at the token limit. `fields` are the response's
    as a `Message` has them.
    """

    prompt: Prompt
    response: str
    score: float
    source: Source = UNKNOWN
    finished: bool = True
    fields: str = ""


Record = PromptOnly | Text | Demonstration | Comparison | Ranking | Rating


@dataclass(frozen=True, slots=True)
class Response:
    """A model's response, and the settings it was sampled with.

    `logp` is the sum of its tokens' log-probabilities (natural log) under the sampling model at
    the sampling temperature; `finished` is False where it was cut at the token limit. `opened` is
    what the rendered prompt already wrote of it, such as `<think>`.
    """

    prompt: Prompt
    text: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    logp: float | None = None
    tokens: int | None = None
    finished: bool = True
    opened: str = ""

    @property
    def answer(self) -> str:
        """The text behind the reasoning, which is what is measured; empty where that never ends."""
        return self.split().answer or ""

    def split(self) -> Reasoned:
        """The text's reasoning and its answer."""
        return split_reasoning(self.text, self.opened)


Outcome = Literal["a", "b", "tie", "both_bad"]


@dataclass(frozen=True, slots=True)
class Battle:
    """One comparison between two models on one prompt.

    `prompt` names the prompt, "" where it is unknown: battles on one prompt are not independent.
    """

    model_a: str
    model_b: str
    outcome: Outcome
    prompt: str = field(default="", compare=False)


def ranks_from_scores(scores: Sequence[float]) -> tuple[int, ...]:
    """The rank of each response: how many have a higher score; equal scores tie, 0 is best."""
    return tuple(sum(other > score for other in scores) for score in scores)


def borda_ranks(votes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The ranks that several annotators' ranks of K responses give together, by the Borda count
    (de Borda 1781): a response scores, over all votes, how many others it beats less how many beat
    it. Of one vote it is that vote's order."""
    columns = range(len(votes[0]))
    scores = [
        sum((vote[i] < other) - (vote[i] > other) for vote in votes for other in vote)
        for i in columns
    ]
    return ranks_from_scores(scores)


def labels_from_ranks(ranks: Sequence[int]) -> list[bool | None]:
    """Whether each response is desirable: it beats more of the others than beat it.

    None for a response in the middle, which beats as many as beat it.
    """
    balances = [sum((rank < other) - (rank > other) for other in ranks) for rank in ranks]
    return [None if balance == 0 else balance > 0 for balance in balances]


def fields_json(fields: Mapping[str, Any]) -> str:
    """Fields as `Message.fields` and `Message.context` hold them."""
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def parse_fields(fields: str) -> dict[str, Any]:
    """The inverse of `fields_json`."""
    return dict(json.loads(fields)) if fields else {}


def prompt_context(prompt: Prompt) -> dict[str, Any]:
    """What a chat template receives beside the turns, such as `tools`."""
    return {} if isinstance(prompt, str) or not prompt else parse_fields(prompt[0].context)


def with_context(turns: tuple[Message, ...], context: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns with this context instead of theirs."""
    if not turns:
        return turns
    return (replace(turns[0], context=fields_json(context)), *turns[1:])


def prompt_text(prompt: Prompt) -> str:
    """The prompt as people read it: the text, or each turn behind its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0] == Message("user", prompt[0].content):
        return prompt[0].content
    context = [f"{key}: {_compact(value)}" for key, value in prompt_context(prompt).items()]
    return "\n\n".join(
        [*context, *(f"{m.role}: {answer_text(m.content, m.fields)}" for m in prompt)]
    )


def answer_text(content: str, fields: str) -> str:
    """A turn as people read it: its content, and its other fields in lines below it."""
    rest = [f"{k}: {_compact(v)}" for k, v in parse_fields(fields).items() if k != "content"]
    return "\n".join([content, *rest] if content else rest)


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def message_json(message: Message) -> dict[str, Any]:
    """A turn as chat templates and JSON files have it: `role`, `content` and its other fields."""
    return {"role": message.role, "content": message.content, **parse_fields(message.fields)}


def turns_json(prompt: Prompt) -> list[dict[str, Any]]:
    """A conversation's turns (`message_json`); of plain text, one turn of the user."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [message_json(turn) for turn in turns]


def prompt_json(prompt: Prompt) -> str | list[dict[str, Any]] | dict[str, Any]:
    """The prompt as JSON files hold it: a string, a list of `{role, content}`, or where a template
    receives more than turns, an object of `messages` and the rest (`tools`).

    A turn that is not to be learned has the `weight` 0, as in OpenAI's format.
    """
    if isinstance(prompt, str):
        return prompt
    turns = [
        message_json(turn) if turn.learn else {**message_json(turn), "weight": 0} for turn in prompt
    ]
    context = prompt_context(prompt)
    return {"messages": turns, **context} if context else turns


def prompt_from_json(value: Any) -> Prompt:
    """The inverse of `prompt_json`. Raises ValueError when the value is of none of its forms."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list | tuple):
        turns = prompt_from_json(value["messages"])
        assert not isinstance(turns, str)
        return with_context(turns, {k: v for k, v in value.items() if k != "messages"})
    if isinstance(value, list | tuple) and value:
        return tuple(_message_from_json(turn) for turn in value)
    raise ValueError(f"a prompt must be text or a list of {{role, content}}, got {value!r}")


def _message_from_json(turn: Any) -> Message:
    if not (
        isinstance(turn, Mapping)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content", 0), str | None)
    ):
        raise ValueError(f"a turn must be {{role, content}}, got {turn!r}")
    content = turn["content"]
    fields = {k: v for k, v in turn.items() if k not in ("role", "content", "weight")}
    if content is None:
        fields = {"content": None, **fields}
    return Message(
        turn["role"], content or "", fields_json(fields), learn=turn.get("weight", 1) != 0
    )
