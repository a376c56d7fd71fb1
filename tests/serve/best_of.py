"""Best-of-N on an engine of given answers, with a reward that knows their first words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from accord.compare.rewards.reward import CombinedReward, PromptResponse, WeightedSource
from accord.records import Message
from accord.respond.protocol import SamplingSettings
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.engine import Delta, EngineRequest, Event
from tests.serve.fake_engine import FakeEngine

CHAT = (Message("user", "hi"),)


FOUR = ["a a a", "b b", "c", "d d …"]


def by_words(scores: dict[str, float], seen: list[PromptResponse] | None = None) -> CombinedReward:
    """Scores by the first word of a response."""

    def score(rows: Sequence[PromptResponse]) -> list[float | None]:
        if seen is not None:
            seen.extend(rows)
        return [scores.get(row.response.split(" ")[0]) for row in rows]

    return CombinedReward((WeightedSource("words", 1.0, score),))


SCORES = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5}


def request(n: int = 1, temperature: float = 1.0, **more: Any) -> EngineRequest:
    return EngineRequest(CHAT, SamplingSettings(n, temperature=temperature), **more)


def engine_of(fake: FakeEngine, reward: CombinedReward, **options: Any) -> BestOfEngine:
    return BestOfEngine(fake, Scorer(reward), BestOfOptions(**options))


def events_of(engine: BestOfEngine, asked: EngineRequest) -> list[Event]:
    async def read() -> list[Event]:
        return [event async for event in engine.stream(asked)]

    return asyncio.run(read())


def answers(events: Sequence[Event]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.text
    return texts
