"""Requests to an endpoint: their body, the cache, refusals and spending limits."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import pytest
from pydantic import ValidationError

from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Refusal
from accord.errors import SettingsError, StorageError, WorkError
from accord.respond import http as attempts
from accord.settings.endpoint import EndpointSettings
from accord.settings.identity import identity_values
from accord.settings.rewards import LengthSource
from tests.compare.endpoint import SCHEMA, answer_to, connect, failing, make_requests, texts
from tests.fake_openai import FakeOpenAi, Reply, completion, request_text


@pytest.fixture(autouse=True)
def _answers(fake: FakeOpenAi) -> None:
    fake.answer = answer_to


def test_the_body_of_a_request(fake: FakeOpenAi) -> None:
    endpoint = connect(fake)
    assert endpoint.complete(make_requests("q")) == [CachedAnswer("answer to q", False, 20, 3)]
    assert fake.paths == {"/v1/chat/completions"}
    assert fake.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "q"}],
            "max_tokens": 512,
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
            },
        }
    ]
    assert fake.keys == ["Bearer none"]  # some servers require a key, whatever it is
    connect(fake, temperature=None, output="text").complete(make_requests("q"))
    assert not {"temperature", "response_format"} & set(fake.requests[-1])


def test_many_requests_are_answered_in_order_and_none_is_sent_twice(fake: FakeOpenAi) -> None:
    in_flight, max_in_flight, lock = [0], [0], threading.Lock()

    def slow(body: Any) -> Reply:
        with lock:
            in_flight[0] += 1
            max_in_flight[0] = max(max_in_flight[0], in_flight[0])
        time.sleep(0.02)
        with lock:
            in_flight[0] -= 1
        return 200, completion(request_text(body))

    fake.answer = slow
    names = [str(i) for i in range(12)]
    endpoint = connect(fake, max_concurrent=3)
    assert texts(endpoint.complete(make_requests(*names, *names))) == names * 2
    assert len(fake.requests) == 12
    assert max_in_flight[0] <= 3
    assert endpoint.usage.to_json() == {
        "calls": 12,
        "prompt_tokens": 240,
        "prefix_tokens": 0,
        "answer_tokens": 36,
        "kept": 0,
        "refused": 0,
    }


def test_the_cache_key_covers_all_that_decides_an_answer(fake: FakeOpenAi) -> None:
    first = texts(connect(fake).complete(make_requests("q")))
    restarted = connect(fake, max_concurrent=1, timeout=5.0, retries=0)
    assert texts(restarted.complete(make_requests("q"))) == first
    assert restarted.usage.cached == 1
    assert len(fake.requests) == 1
    for different in (
        connect(fake, model="another"),
        connect(fake, temperature=0.5),
        connect(fake, answer_tokens=9),
        connect(fake, output="text"),
    ):
        different.complete(make_requests("q"))
    connect(fake).complete(make_requests("Q"))
    connect(fake).complete([ChatRequest("q", {})])
    assert len(fake.requests) == 7


def test_an_incomplete_line_loses_only_its_answer(fake: FakeOpenAi) -> None:
    endpoint = connect(fake)
    endpoint.complete(make_requests("one"))
    endpoint.complete(make_requests("two"))
    path = endpoint.cache.path
    path.write_bytes(path.read_bytes()[:-10])  # as if killed while it wrote
    restarted = connect(fake)
    assert texts(restarted.complete(make_requests("one", "two"))) == [
        "answer to one",
        "answer to two",
    ]
    assert (restarted.usage.cached, restarted.usage.calls) == (1, 1)
    last = connect(fake)
    last.complete(make_requests("one", "two"))
    assert last.usage.cached == 2


def test_a_cache_that_cannot_be_written_fails_before_any_request(
    fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError):
        connect(fake)
    assert not fake.requests


def no_schemas(body: Any) -> Reply:
    if "response_format" in body:
        return 400, {"error": {"message": "response_format is not supported"}}
    return 200, completion("Verdict: A")


def test_a_server_without_schemas_answers_in_text(fake: FakeOpenAi) -> None:
    fake.answer = no_schemas
    endpoint = connect(fake, max_concurrent=1)
    assert texts(endpoint.complete(make_requests("1", "2", "3"))) == ["Verdict: A"] * 3
    assert ["response_format" in body for body in fake.requests] == [True, False, False, False]
    restarted = connect(fake)
    restarted.complete(make_requests("1", "2", "3"))  # cached, before the server is known
    assert (restarted.usage.cached, restarted.usage.calls) == (3, 0)
    strict = connect(fake, output="json_schema")
    with pytest.raises(SettingsError, match="Set the judge's output=text, or auto"):
        strict.complete(make_requests("1"))


def test_a_server_that_calls_the_limit_by_its_newer_name(fake: FakeOpenAi) -> None:
    def newer(body: Any) -> Reply:
        if "max_tokens" in body:
            message = "Unsupported parameter: use 'max_completion_tokens' instead."
            return 400, {"error": {"message": message}}
        return 200, completion("at last")

    fake.answer = newer
    assert texts(connect(fake).complete(make_requests("q"))) == ["at last"]
    assert fake.requests[-1]["max_completion_tokens"] == 512
    assert "response_format" in fake.requests[-1]


def test_a_refused_request_does_not_affect_others(fake: FakeOpenAi) -> None:
    def answer(body: Any) -> Reply:
        if request_text(body) == "long":
            return 400, {"error": {"message": "maximum context length is 8"}}
        return 200, completion("fine")

    fake.answer = answer
    endpoint = connect(fake, max_concurrent=1)
    answers = endpoint.complete(make_requests("a", "long", "b"))
    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == "status 400: maximum context length is 8"
    assert "Shorten what is judged" in answers[1].advice
    assert texts([answers[0], answers[2]]) == ["fine", "fine"]
    assert endpoint.usage.refused == 1
    assert "response_format" in fake.requests[-1]  # it was not the schema that was refused


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everything_ends_the_stage(fake: FakeOpenAi, status: int) -> None:
    fake.answer = lambda body: (status, {"error": {"message": "no such model"}})
    with pytest.raises(SettingsError, match=r"no such model.*model \('m'\) and api_key_env"):
        connect(fake).complete(make_requests("q"))


@pytest.mark.parametrize(
    "answer", ["<html>", [1], {}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}]
)
def test_a_reply_that_is_no_completion_is_an_error(fake: FakeOpenAi, answer: Any) -> None:
    fake.answer = lambda body: (200, answer)
    with pytest.raises(WorkError, match="no chat completion"):
        connect(fake).complete(make_requests("q"))


def test_reasoning_without_an_answer_is_an_empty_one(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (200, completion(None, "length"))
    assert connect(fake).complete(make_requests("q")) == [CachedAnswer("", True, 20, 3)]


def test_a_limit_on_calls_stops_and_loses_nothing(fake: FakeOpenAi) -> None:
    names = [str(i) for i in range(10)]
    with pytest.raises(WorkError, match=r"max_calls=4 is reached, after 4 calls and .* tokens"):
        connect(fake, max_calls=4).complete(make_requests(*names))
    assert len(fake.requests) == 4
    with pytest.raises(WorkError, match="max_calls=4"):
        connect(fake, max_calls=4).complete(make_requests(*names))
    last = connect(fake, max_calls=4)
    assert texts(last.complete(make_requests(*names))) == [f"answer to {n}" for n in names]
    assert len(fake.requests) == 10
    assert (last.usage.cached, last.usage.calls) == (8, 2)


@pytest.mark.parametrize(
    "paid",
    [
        completion("", "length"),
        completion("half an ans", "length"),
        completion("Verdict: A", "content_filter"),
        {
            "choices": [{"message": {"content": None, "refusal": "no"}}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 3},
        },
    ],
)
def test_an_answer_without_a_verdict_is_paid_for_and_cached(fake: FakeOpenAi, paid: Any) -> None:
    fake.answer = failing(1, (200, paid))
    endpoint = connect(fake)
    given = endpoint.complete(make_requests("x"))
    restarted = connect(fake)
    assert endpoint.complete(make_requests("x")) == given == restarted.complete(make_requests("x"))
    assert len(fake.requests) == 1
    is_refused = isinstance(given[0], Refusal)
    assert endpoint.usage.refused == 2 * is_refused
    assert restarted.usage.refused == is_refused
    longer = connect(fake, answer_tokens=1024)  # the remedy that is advised asks anew
    assert texts(longer.complete(make_requests("x"))) == ["at last"]


def test_an_empty_answer_without_tokens_is_a_fault_for_once(fake: FakeOpenAi) -> None:
    nothing = completion("")
    nothing["usage"]["completion_tokens"] = 0
    fake.answer = failing(1, (200, nothing))
    endpoint = connect(fake)
    endpoint.complete(make_requests("x"))
    assert texts(endpoint.complete(make_requests("x"))) == ["at last"]
    assert len(fake.requests) == 2


def test_an_answer_whose_tokens_are_not_told_is_cached_before_that_is_an_error(
    fake: FakeOpenAi,
) -> None:
    fake.answer = lambda body: (200, {"choices": [{"message": {"content": "x"}}]})
    with pytest.raises(SettingsError, match="Limit its use by max_calls"):
        connect(fake, max_total_tokens=60).complete(make_requests("5"))
    assert texts(connect(fake).complete(make_requests("5"))) == ["x"]
    assert len(fake.requests) == 1


def test_a_refusal_may_cross_processes() -> None:
    refused = pickle.loads(pickle.dumps(attempts.RefusedError("here", 400, "no")))
    assert (refused.status, refused.message) == (400, "no")
    assert str(refused) == "here refused the request (status 400): no"


def test_a_limit_on_tokens(fake: FakeOpenAi) -> None:
    # 23 tokens a call: the third begins below 60, and the fourth does not.
    endpoint = connect(fake, max_total_tokens=60, max_concurrent=1)
    with pytest.raises(WorkError, match=r"max_total_tokens=60 is reached, after 3 calls and 69"):
        endpoint.complete(make_requests("1", "2", "3", "4"))
    without_usage = completion("x")
    del without_usage["usage"]
    fake.answer = lambda body: (200, without_usage)
    with pytest.raises(SettingsError, match="Limit its use by max_calls"):
        connect(fake, max_total_tokens=60).complete(make_requests("5"))
    assert texts(connect(fake).complete(make_requests("5"))) == ["x"]


def test_the_key_is_sent(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    connect(fake, api_key_env="A_KEY").complete(make_requests("q"))
    assert fake.keys == ["Bearer secret"]
    monkeypatch.delenv("A_KEY")
    with pytest.raises(SettingsError, match=r"A_KEY, which the judge's api_key_env names"):
        connect(fake, api_key_env="A_KEY")


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValidationError, match="Write the full address"):
        EndpointSettings(base_url="localhost:8000")
    with pytest.raises(ValidationError, match="Keep one"):
        EndpointSettings(principles=["be kind"], principles_file="p.yaml")


def test_how_an_endpoint_is_reached_does_not_identify_work() -> None:
    judge = {"base_url": "http://h/v1", "model": "m", "max_calls": 3, "timeout": 1.0}
    assert identity_values(judge, EndpointSettings) == {"base_url": "http://h/v1", "model": "m"}
    rule = {"kind": "length", "timeout": 1}
    assert identity_values(rule, LengthSource) == rule
