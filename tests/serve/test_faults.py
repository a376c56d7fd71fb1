"""An engine that fails: its requests get an error, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from accord.lm.model import LanguageModel
from accord.respond.protocol import SamplingSettings
from accord.serve.engine import Accepted, Delta, EngineRequest, Event, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.local import LocalEngine
from tests.serve.clients import error_of, read_all, stream
from tests.serve.conftest import Served, wait_for
from tests.serve.fake_engine import FakeEngine


class Failing(FakeEngine):
    """An engine that fails after its first text, and knows that it is ill."""

    def __init__(self) -> None:
        super().__init__(lambda _: [])
        self.model_names = ("toy",)

    async def check_health(self) -> None:
        raise ApiError(503, "It is ill.")

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        yield Accepted()
        yield Delta(0, "the")
        raise ValueError("a bug with a secret")
        yield TokenUsage(0, 0)


def test_a_failure_within_an_answer_is_an_error_in_it(start: Callable[..., Served]) -> None:
    served = start(Failing())
    error = error_of(served.chat(), 500)
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    parts = served.chat(stream=True).text.strip().split("\n\n")
    assert "error" in json.loads(parts[-1].removeprefix("data: "))
    assert "[DONE]" not in parts[-1]
    assert error_of(served.get("/health"), 503)["message"] == "It is ill."


def test_a_step_that_fails_fails_its_requests_and_the_server_goes_on(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    wait_for(lambda: served.engine._batch is not None)
    with monkeypatch.context() as patch:
        patch.setattr(served.engine._batch.batch, "add_rows", lambda new: 1 / 0)
        assert "ZeroDivisionError" in error_of(served.chat(), 500)["message"]
    served.wait_until_free()
    assert served.chat(max_tokens=3).status_code == 200
    # Rows that run when a step fails leave: nobody waits for them any more.
    batch = served.engine._batch
    with monkeypatch.context() as patch:
        patch.setattr(batch.batch, "decode_step", lambda tokens: 1 / 0)
        error_of(served.chat(n=3, max_tokens=30), 500)
        wait_for(lambda: not served.engine._running)
        assert not batch.rows
        assert not batch.waiting


def test_an_engine_that_has_ended_lets_nobody_wait(start: Callable[..., Served]) -> None:
    served = start()
    wait_for(lambda: served.engine._batch is not None)
    with stream(served, max_tokens=100) as client:
        assert b" 200 " in client.recv(100)
        served.engine._commands.put(lambda batch: 1 / 0)
        assert b"The engine has ended" in read_all(client)
    assert "has ended" in error_of(served.chat(), 503)["message"]
    assert error_of(served.get("/health"), 503)


def test_an_engine_that_ends_while_a_prompt_is_encoded_lets_nobody_wait(
    toy_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(toy_lm, ["toy"])
    encode = engine._encode

    def end_first(request: EngineRequest) -> tuple[int, ...]:
        engine._commands.put(None)
        engine._thread.join()
        return encode(request)

    monkeypatch.setattr(engine, "_encode", end_first)

    async def ask() -> None:
        async with asyncio.timeout(20):
            async for _ in engine.stream(EngineRequest("the cat", SamplingSettings())):
                pass

    with pytest.raises(ApiError, match="has ended"):
        asyncio.run(ask())


def test_rendering_sets_no_limit_of_memory_for_the_engine(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    limits: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    assert served.chat(max_tokens=2).status_code == 200
    assert not limits  # it would be the whole process's
