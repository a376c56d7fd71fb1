"""A conversation and how its answers are asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from accord.records import Message
from accord.respond.protocol import SamplingSettings
from accord.serve.engine import Delta, Engine, EngineRequest, TokenUsage

SEED_STEP = 1  # between the seeds of two turns


@dataclass
class Side:
    """A model that answers, under its name. `chooses` says whether it can take the best of N."""

    name: str
    engine: Engine
    chooses: bool = False


@dataclass
class Manner:
    """How answers are drawn; `seed` None draws new ones each time."""

    temperature: float = 0.7
    max_tokens: int | None = None
    seed: int | None = None
    best_of: int = 1
    turns_drawn: int = 0

    def request(self, turns: tuple[Message, ...], *, chooses: bool) -> EngineRequest:
        """The request for the next turn."""
        options = {"best_of": self.best_of, "scores": True} if self._scores(chooses) else {}
        seed = None if self.seed is None else self.seed + SEED_STEP * self.turns_drawn
        sampling = SamplingSettings(temperature=self.temperature)
        return EngineRequest(turns, sampling, self.max_tokens, seed, options=options)

    def _scores(self, chooses: bool) -> bool:
        return chooses and self.best_of > 1

    def recorded(self) -> dict[str, Any]:
        """What is stored of how an answer was drawn."""
        values = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": None if self.seed is None else self.seed + SEED_STEP * self.turns_drawn,
            "best_of": self.best_of,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass
class Conversation:
    """The system prompt and the turns so far."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def with_message(self, text: str) -> tuple[Message, ...]:
        """The conversation with a new message of the user."""
        system = [] if self.system is None else [Message("system", self.system)]
        return (*system, *self.turns, Message("user", text))

    def add(self, text: str, answer: str) -> None:
        self.turns += [Message("user", text), Message("assistant", answer)]

    def take_back(self) -> str | None:
        """Remove the last exchange; the user's message of it."""
        if len(self.turns) < 2:
            return None
        *self.turns, message, _ = self.turns
        return message.content

    def messages(self) -> list[dict[str, str]]:
        """The conversation as JSON has it."""
        system = [] if self.system is None else [Message("system", self.system)]
        return [{"role": m.role, "content": m.content} for m in (*system, *self.turns)]


@dataclass
class ChatReply:
    """One side's answer while it comes."""

    text: str = ""
    finished: bool = False
    tokens: int | None = None
    report: dict[str, Any] = field(default_factory=dict)

    async def read(self, events: AsyncGenerator[Any, None], show: Callable[[str], object]) -> None:
        """Read an engine's events to their end; `show` gets each new piece of text."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta):
                    self.text += event.text
                    self.finished = self.finished or event.finish_reason == "stop"
                    if event.text:
                        show(event.text)
                elif isinstance(event, TokenUsage):
                    self.tokens = event.completion_tokens
                    self.report = dict(event.accord or {})
