"""Candidates that are drawn in waves, until the best is good enough or there is no room."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator

import pytest

from accord.serve.best_of.stopping import (
    Stopping,
    expected_improvement,
)
from accord.serve.engine import Accepted, Delta, EngineRequest, Event, TokenUsage
from accord.serve.errors import ApiError
from tests.serve.best_of import SCORES, answers, by_words, engine_of, events_of, request
from tests.serve.fake_engine import FakeEngine


def test_candidates_are_drawn_until_the_best_is_good_enough() -> None:
    waves = [["a", "c"], ["d", "b"], ["a", "a"]]

    def run(stopping: Stopping, n: int = 6) -> tuple[FakeEngine, list[Event]]:
        remaining = iter(waves)
        fake = FakeEngine(lambda _: next(remaining))
        engine = engine_of(fake, by_words(SCORES), n=n, stopping=stopping)
        return fake, events_of(engine, request(seed=5))

    fake, events = run(Stopping(enough=2.0, wave=2))
    assert answers(events) == {0: "c"}
    assert len(fake.asked) == 1
    fake, events = run(Stopping(enough=2.5, wave=2))
    assert answers(events) == {0: "b"}
    seeds = [asked.seed for asked in fake.asked]
    assert seeds[0] == 5
    assert len(set(seeds)) == 2
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord == {"best_of": 4}
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 4)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    fake, events = run(Stopping(enough=99.0, wave=2))
    assert len(fake.asked) == 3
    # A candidate costs more than it is expected to gain as soon as the spread is known.
    fake, events = run(Stopping(cost=100.0, wave=2))
    assert len(fake.asked) == 2  # two scores say nothing of the spread, four do
    fake, events = run(Stopping(cost=1e-9, wave=2))
    assert len(fake.asked) == 3


def test_as_many_answers_as_are_returned_must_be_good_enough() -> None:
    waves = iter([["b", "a"], ["c", "d"], ["a", "a"]])
    fake = FakeEngine(lambda _: next(waves))
    engine = engine_of(fake, by_words(SCORES), n=6, stopping=Stopping(enough=2.0, wave=2))
    assert answers(events_of(engine, request(n=2))) == {0: "b", 1: "c"}
    assert len(fake.asked) == 2
    # The first wave has all that will be returned; together they are n.
    assert Stopping(enough=1.0, wave=2).waves(6, 3) == [3, 2, 1]
    assert Stopping(enough=1.0, wave=2).waves(5, 1) == [2, 2, 1]


def test_expected_improvement_is_that_of_the_normal_distribution() -> None:
    # For scores −1, 0, 1: mean 0, deviation 1, best 1. E[max(X − 1, 0)] = φ(1) − (1 − Φ(1)) =
    # 0.24197 − 0.15866 = 0.08332.
    assert expected_improvement([-1.0, 0.0, 1.0]) == pytest.approx(0.08332, abs=1e-5)
    assert expected_improvement([-1.0, 0.0, 1.0, math.nan]) == pytest.approx(0.08332, abs=1e-5)
    assert expected_improvement([2.0, 2.0, 2.0]) == 0
    assert expected_improvement([1.0, 2.0]) == math.inf


def test_a_wave_for_which_there_is_no_room_is_not_drawn() -> None:
    waves = iter([["a", "c"], ["d", "b"]])
    fake = FakeEngine(lambda _: next(waves))
    engine = engine_of(fake, by_words(SCORES), n=4, stopping=Stopping(enough=9.0, wave=2))
    events: list[Event] = []

    async def read() -> None:
        async for event in engine.stream(request()):
            events.append(event)
            if isinstance(event, Accepted):
                fake.error = ApiError(429, "busy")

    asyncio.run(read())
    assert answers(events) == {0: "c"}
    assert isinstance(events[-1], TokenUsage)
    assert events[-1].accord == {"best_of": 2}


def test_of_a_wave_that_is_refused_on_the_way_nothing_is_reported() -> None:
    waves = iter([["a", "c"], ["b", "b"]])

    class Refusing(FakeEngine):
        async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
            async for event in super().stream(request):
                yield event
                if len(self.asked) == 2 and isinstance(event, Delta):
                    raise ApiError(429, "busy")

    fake = Refusing(lambda _: next(waves))
    engine = engine_of(fake, by_words(SCORES), n=4, stopping=Stopping(enough=9.0, wave=2))
    events = events_of(engine, request())
    assert answers(events) == {0: "c"}
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord == {"best_of": 2}
    assert usage.headers["X-Accord-Best-Of"] == "2"
