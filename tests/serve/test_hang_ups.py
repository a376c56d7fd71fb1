"""Clients that hang up, stall or do not read: their work ends, and others are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from accord.serve import exchange, protocol
from accord.serve.engine import Accepted, Delta, EngineRequest, Event
from accord.serve.errors import ApiError
from tests.serve.clients import stream
from tests.serve.conftest import Served, wait_for


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_hangs_up_frees_its_rows(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    served = start()
    slow_down(served, monkeypatch)
    client = stream(served, n=4, max_tokens=100, stream=is_stream)
    wait_for(lambda: served.engine.gauges()["rows_running"] == 4)
    client.close()
    wait_for(lambda: served.engine.gauges()["rows_running"] == 0)
    assert served.engine.gauges()["cancelled_requests_total"] == 1
    assert served.engine.gauges()["generated_tokens_total"] < 400
    assert not served.engine._running


def slow_down(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step of the engine take a while."""
    import time

    wait_for(lambda: served.engine._batch is not None)
    step = served.engine._batch.step

    def slow() -> Any:
        time.sleep(0.05)
        return step()

    monkeypatch.setattr(served.engine._batch, "step", slow)


def test_a_client_that_hangs_up_within_its_body_is_forgotten(served: Served) -> None:
    client = served.connect()
    client.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: application/json\r\n\r\n{"
    )
    client.close()
    assert served.get("/health").status_code == 200
    wait_for(lambda: 'path="/v1/completions",status="closed"' in served.get("/metrics").text)
    assert not served.engine._running


def test_slow_heads_and_bodies_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.2)
    with served.connect() as silent, served.connect() as head, served.connect() as body:
        head.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        body.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        for client in (silent, head, body):
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_dropped(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SEND_SECONDS", 0.2)
    engine = Endless()
    served = start(engine)
    client = stream(served)
    assert client.recv(12) == b"HTTP/1.1 200"  # it was accepted, and nothing more is read
    wait_for(lambda: engine.closed == 1)
    sent = engine.sent
    wait_for(lambda: served.get("/metrics").status_code == 200)
    assert engine.sent == sent  # the work for it has ended
    client.close()


class Endless:
    """An engine whose answers never end."""

    model_names = ("toy",)
    closed = sent = 0

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        try:
            yield Accepted()
            while True:
                self.sent += 1
                yield Delta(0, "text " * 2000)
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    def gauges(self) -> dict[str, float]:
        return {}

    async def check_health(self) -> None:
        raise ApiError(503, "It is ill.")

    async def close(self) -> None:
        pass
