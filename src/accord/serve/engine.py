"""What the routes need of an engine, whichever it is: a local model, a server upstream, best-of-N.

A request is what the client asked for, checked, with its prompt as text; an engine answers it with
a stream of events. An engine that wraps another one has the same interface.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from accord.records import Message, Prompt
from accord.respond.protocol import SamplingSettings

FinishReason = Literal["stop", "length"]


@dataclass
class Drops:
    """Responses of a request that nobody needs any more, by index.

    An engine that can end single responses sets `listener`, and is called with those that are
    dropped; no delta is expected of them. One that can't generates them to their end.
    """

    indices: set[int] = field(default_factory=set)
    listener: Callable[[list[int]], None] | None = None

    def add(self, indices: Iterable[int]) -> None:
        """Drop responses."""
        new = sorted(set(indices) - self.indices)
        self.indices.update(new)
        if new and self.listener is not None:
            self.listener(new)


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt, and how it is answered.

    `prompt` is a conversation, a text, or token ids. The context of a conversation's first turn
    holds the variables for the chat template. With `continues` a conversation's last turn, the
    assistant's, is the beginning of the answer; otherwise the answer is a new turn.

    `sampling` holds temperature, truncation, stop strings and the number of responses (`n`); its
    `max_new_tokens` is not read: `max_tokens` None stands for as many as the context has room for.
    `seed` None draws one. `top_logprobs` is None where no log-probs are asked for, and otherwise
    the number of likeliest tokens beside each token's own.

    `drops` is where whoever asks says which responses it needs no more. `num_prompts` counts the
    prompts of the client's request, whose answers come together.

    `options` is what the body has under the key `accord`: an engine raises ApiError (400) for what
    it does not know there.
    """

    prompt: Prompt | tuple[int, ...]
    sampling: SamplingSettings
    max_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    continues: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    drops: Drops | None = None
    num_prompts: int = 1

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a conversation."""
        return isinstance(self.prompt, tuple) and isinstance(self.prompt[0], Message)

    @property
    def is_ids(self) -> bool:
        """Whether the prompt is token ids."""
        return isinstance(self.prompt, tuple) and not self.is_chat


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-prob under the model (temperature 1, before truncation), and the likeliest
    tokens at its position with theirs, the likeliest first."""

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first event: the request is valid and waits for its turn. Errors before it get a status
    of their own; after it the answer's status is 200."""


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of response `index` (from 0 to n − 1); the last one has the `finish_reason`.

    `tokens` are those whose text is complete with this delta, where log-probs were asked for;
    neither EOS nor tokens of a stop string are among them.
    """

    index: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class StillWorking:
    """Nothing new yet: a stream sends a comment, so that no proxy takes it for dead."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The last event: the tokens of the prompt, counted once, and of all responses generated, EOS
    among them.

    `accord` is what the answer shows under this key, and `headers` are added to an answer that is
    not streamed.
    """

    prompt_tokens: int
    completion_tokens: int
    accord: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Event = Accepted | Delta | StillWorking | TokenUsage


class Engine(Protocol):
    """Answers requests, any number at once.

    `model_names` are the names under which a request may ask for its model, the one to show first;
    `warning` is what its users should know, if anything.
    """

    model_names: tuple[str, ...]

    @property
    def warning(self) -> str | None: ...

    def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        """The events of a request: `Accepted`, deltas, and `TokenUsage` at the end.

        Closing the generator (`aclose`), or cancelling the task that reads it, ends the work at
        once. Raises ApiError: before `Accepted` for a request that can't be answered, after it
        for a failure on the way.
        """
        ...

    def gauges(self) -> Mapping[str, float]:
        """Numbers for /metrics, by name: what is running and waiting now, and counters."""
        ...

    async def check_health(self) -> None:
        """Raise ApiError (503) where the engine can't answer."""
        ...

    async def close(self) -> None:
        """End all work and free what the engine has."""
        ...
