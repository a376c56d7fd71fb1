"""Scoring beside an engine: in threads, together, and without harm to others."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from accord.compare.rewards.reward import CombinedReward, PromptResponse, WeightedSource
from accord.errors import RewardError
from accord.lm.tokens.opened import opened_by_prompt
from accord.lm.tokens.render import render
from accord.records import Prompt
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import ScoreQuestion, Scorer
from accord.serve.errors import ApiError
from tests.lm.toys import toy_tokenizer
from tests.serve.best_of import FOUR, answers, events_of, request
from tests.serve.fake_engine import FakeEngine


def test_rendering_beside_an_engine_sets_no_limit_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer, limits, threads = toy_tokenizer(), [], []
    resource = pytest.importorskip("resource")
    render([{"role": "user", "content": "warm"}], tokenizer)
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))

    def opened(prompt: Prompt) -> str:
        threads.append(threading.current_thread())
        return opened_by_prompt(prompt, tokenizer)

    def score(rows: Sequence[PromptResponse]) -> list[float | None]:
        render([{"role": "user", "content": rows[0].response}], tokenizer)  # as reward models do
        return [1.0 for _ in rows]

    reward = CombinedReward((WeightedSource("model", 1.0, score),))
    engine = BestOfEngine(FakeEngine(lambda _: FOUR), Scorer(reward), BestOfOptions(n=4), opened)
    assert answers(events_of(engine, request())) == {0: FOUR[0]}
    assert not limits  # it would be the whole process's, the engine's thread included
    # Rendering takes a while: the event loop goes on.
    assert threads
    assert threading.main_thread() not in threads
    render([{"role": "user", "content": "alone"}], tokenizer)
    assert limits or sys.platform != "linux"  # elsewhere the limit holds


def test_a_failed_reward_is_an_error_of_its_own_request() -> None:
    def score(rows: Sequence[PromptResponse]) -> list[float]:
        if any(row.response == "bad" for row in rows):
            raise RewardError("it can't be scored")
        return [float(len(row.response)) for row in rows]

    reward = CombinedReward((WeightedSource("mine", 1.0, score),), models=(object(),))  # type: ignore[arg-type]
    scorer = Scorer(reward)

    async def ask() -> list[Any]:
        texts = [("good",), ("bad",), ("x", "xyz")]
        asked = [scorer.score(ScoreQuestion("p", t, (True,) * len(t))) for t in texts]
        results = await asyncio.gather(*asked, return_exceptions=True)
        async with asyncio.timeout(20):  # and who comes later is scored too
            assert (await scorer.score(ScoreQuestion("p", ("ab",), (True,)))).total == (2.0,)
        return results

    first, second, third = asyncio.run(ask())
    assert first.total == (4.0,)
    assert isinstance(second, ApiError)
    assert "can't be scored" in str(second)
    assert third.total == (1.0, 3.0)
    assert scorer.scored >= 4


def test_who_hung_up_while_others_are_scored_is_not_scored() -> None:
    seen: list[str] = []
    go_on = threading.Event()

    def score(rows: Sequence[PromptResponse]) -> list[float]:
        seen.extend(row.response for row in rows)
        assert go_on.wait(20)
        return [0.0 for _ in rows]

    reward = CombinedReward((WeightedSource("mine", 1.0, score),), models=(object(),))  # type: ignore[arg-type]
    scorer = Scorer(reward)

    async def ask() -> None:
        def score_of(text: str) -> asyncio.Task[Any]:
            return asyncio.create_task(scorer.score(ScoreQuestion("p", (text,), (True,))))

        first = score_of("first")
        while not seen:
            await asyncio.sleep(0.01)
        gone, last = score_of("gone"), score_of("last")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, last)

    asyncio.run(ask())
    assert seen == ["first", "last"]
