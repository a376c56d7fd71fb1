"""Broken, huge, slow and hung-up requests get the right status, and free their work."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from accord.errors import RequestError
from accord.serve import exchange, protocol
from accord.serve.access import Access
from accord.serve.engine import Accepted, Delta, EngineRequest, Event, TokenUsage
from accord.serve.errors import ApiError
from tests.serve.conftest import Served, wait_for

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "the cat"}]


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("best_of", 2),
        ("never_heard_of", 1),
        ("n", 0),
        ("n", True),
        ("n", "2"),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", 1e-9),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("seed", 1 << 64),
        ("stop", ""),
        ("stop", ["a", 3]),
        ("stop", ["a"] * 17),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),  # without stream
        ("logprobs", 3),
        ("top_logprobs", 2),  # without logprobs
        ("messages", []),
        ("messages", [{"role": "robot", "content": "a"}]),
        ("messages", [{"role": "user"}]),
        ("messages", "the cat"),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}),
        ("chat_template_kwargs", {"enable_thinking": False}),  # which the template does not read
        ("chat_template_kwargs", {"eos_token": "x"}),
        ("continue_final_message", True),  # the last message is the user's
        ("accord", {"unknown": 1}),
        ("accord", 3),
    ],
)
def test_what_is_not_honoured_is_refused(served: Served, key: str, value: Any) -> None:
    body = {"model": "toy", "messages": MESSAGES, "max_tokens": 2, key: value}
    error = error_of(served.post(CHAT, body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"].split(".")[0].split("[")[0] == key


@pytest.mark.parametrize(
    "neutral",
    [
        {"best_of": 1, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {
            "tools": [],
            "tool_choice": "auto",
            "functions": None,
            "response_format": {"type": "text"},
        },
        {"user": "ada", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"seed": None, "stop": None, "logprobs": None, "top_logprobs": 0, "stream_options": None},
        {"max_tokens": 2, "max_completion_tokens": 2, "top_k": -1, "parallel_tool_calls": True},
    ],
)
def test_values_that_ask_for_nothing_count_as_unset(served: Served, neutral: Any) -> None:
    assert served.chat(**{"max_tokens": 2, **neutral}).status_code == 200


def test_pictures_and_unwritten_fields_are_refused(served: Served) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    body = {"model": "toy", "messages": [{"role": "user", "content": picture}]}
    assert "image_url" in error_of(served.post(CHAT, body), 400)["message"]
    body["messages"] = [{"role": "user", "content": "a", "name": "Ada"}]
    assert "'name'" in error_of(served.post(CHAT, body), 400)["message"]
    eos = served.lm.tokenizer.eos_token
    body["messages"] = [{"role": "user", "content": f"a{eos}b"}]
    assert "control token" in error_of(served.post(CHAT, body), 400)["message"]


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"model": "toy", "temperature": NaN}', "application/json", 400),
        (b'{"model": "\xff"}', "application/json", 400),
        (b'{"model": "toy", "prompt": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": "toy"}', "text/plain", 415),
        (b'{"model": "other", "prompt": "a"}', "application/json", 404),
        (b'{"prompt": "a"}', "application/json", 400),
        (b'{"model": "toy", "prompt": [[-1]]}', "application/json", 400),
        (b'{"model": "toy", "prompt": [[999999]]}', "application/json", 400),
        (b'{"model": "toy", "prompt": []}', "application/json", 400),
        (b" " * ((1 << 20) + 1), "application/json", 413),
    ],
)
def test_broken_bodies(served: Served, data: bytes, kind: str, status: int) -> None:
    import httpx2

    response = httpx2.post(
        f"{served.url}/v1/completions",
        content=data,
        headers={"Content-Type": kind},
        timeout=60,
        trust_env=False,
    )
    error_of(response, status)


def test_a_body_that_does_not_say_its_size_is_cut_at_the_limit(served: Served) -> None:
    with served.connect() as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(40):
                client.sendall(chunk)
        except OSError:
            pass  # the server has closed
        assert b" 413 " in client.recv(100)


def test_unknown_paths_and_methods(served: Served) -> None:
    assert "/v1/models" in error_of(served.get("/v2/x"), 404)["message"]
    assert "GET" in error_of(served.get(CHAT), 405)["message"]


def test_what_is_no_http_gets_an_error_in_json(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data


def test_the_context_is_a_limit_that_the_error_names(served: Served) -> None:
    error = error_of(served.complete("the cat " * 100, max_tokens=4), 400)
    assert error["code"] == "context_length_exceeded"
    assert "128" in error["message"]
    assert error["param"] == "prompt"
    error = error_of(served.chat(max_tokens=4000), 400)
    assert "4000" in error["message"]
    answer = served.chat(temperature=0).json()  # without a limit the context is one
    assert answer["usage"]["total_tokens"] <= 128


def test_a_full_queue_says_when_to_come_again(start: Callable[..., Served]) -> None:
    served = start(max_rows=2, max_waiting=0)
    with stream(served, n=2, max_tokens=100) as client:
        assert b" 200 " in client.recv(100)
        response = served.chat(max_tokens=2)
        assert error_of(response, 429)["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) >= 1
    served.wait_until_free()
    assert served.chat(max_tokens=2).status_code == 200
    assert error_of(served.chat(n=3), 400)["param"] == "n"


def stream(served: Served, **options: Any) -> socket.socket:
    """A connection on which an answer is being streamed."""
    body = json.dumps({"model": "toy", "messages": MESSAGES, "stream": True, **options}).encode()
    client = served.connect()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    return client


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
    wait_for(lambda: engine.closed == 1)
    client.close()


class Endless:
    """An engine whose answers never end."""

    model_names = ("toy",)
    closed = 0

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        try:
            yield Accepted()
            while True:
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


class Failing(Endless):
    """An engine that fails after its first text; without `stream`, before."""

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
    assert error_of(served.get("/health"), 503)


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


def test_rendering_sets_no_limit_of_memory_for_the_engine(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    limits: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    assert served.chat(max_tokens=2).status_code == 200
    assert not limits  # it would be the whole process's


def test_keys_open_the_server(start: Callable[..., Served]) -> None:
    served = start(access=Access("127.0.0.1", ("first", "second")))
    assert error_of(served.chat(), 401)["code"] == "invalid_api_key"
    assert served.get("/health").status_code == 200
    assert served.get("/metrics").status_code == 401
    for header in ("Bearer wrong", "Bearer", "Basic first", "first"):
        error_of(served.get("/v1/models", headers={"Authorization": header}), 401)
    for key in ("first", "second"):
        header = {"Authorization": f"Bearer {key}"}
        assert served.get("/v1/models", headers=header).status_code == 200
    assert "first" not in served.get("/metrics", headers=header).text


def test_another_name_for_this_machine_is_refused_without_a_key(served: Served) -> None:
    error_of(served.get("/v1/models", headers={"Host": "evil.example"}), 403)
    assert served.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_other_machines_need_a_key() -> None:
    with pytest.raises(RequestError, match="ACCORD_API_KEY"):
        Access("0.0.0.0").check_address()
    with pytest.raises(RequestError, match="printable"):
        Access("127.0.0.1", ("ключ",)).check_address()
    for access in (
        Access("::1"),
        Access("0.0.0.0", ("key",)),
        Access("0.0.0.0", without_key=True),
    ):
        access.check_address()
