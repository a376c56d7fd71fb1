"""What a server does not read or honour is refused, with its place in the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.serve.clients import CHAT, MESSAGES, error_of, read_all, stream
from tests.serve.conftest import Served


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
        ("temperature", 10**400),
        ("top_p", 1.5),
        ("top_p", -(10**400)),
        ("n", 10**400),
        ("seed", 10**400),
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
        (b'{"model": "toy", "prompt": "a", "min_p": 1e999}', "application/json", 400),
        (b'{"model": "toy", "prompt": [[-1]]}', "application/json", 400),
        (b'{"model": "toy", "prompt": [[999999]]}', "application/json", 400),
        (b'{"model": "toy", "prompt": []}', "application/json", 400),
        (b" " * ((1 << 20) + 1), "application/json", 413),
    ],
)
def test_broken_bodies(served: Served, data: bytes, kind: str, status: int) -> None:

    served.wait_until_free()
    before = served.engine.gauges()["prompt_tokens_total"]
    response = httpx2.post(
        f"{served.url}/v1/completions",
        content=data,
        headers={"Content-Type": kind},
        timeout=60,
        trust_env=False,
    )
    assert response.status_code == status
    assert error_of(response, status)["type"] == "invalid_request_error"
    assert served.engine.gauges()["prompt_tokens_total"] == before  # nothing was begun
    assert served.engine.gauges()["rows_running"] == 0
    assert not served.engine._running


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


def test_more_prompts_than_a_server_takes_are_no_reason_to_come_again(
    start: Callable[..., Served],
) -> None:
    served = start(max_rows=4, max_waiting=2)
    error = error_of(served.complete(["the cat"] * 4, n=2, max_tokens=2), 400)
    assert error["param"] == "prompt"
    assert "2 responses to each of 4 prompts" in error["message"]
    assert len(served.complete(["the cat"] * 3, n=2, max_tokens=2).json()["choices"]) == 6
