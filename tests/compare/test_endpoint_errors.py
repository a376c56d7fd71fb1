"""An endpoint's moods: errors within a 200, replies that are cut, parameters that it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Endpoint, Refusal
from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import Candidates, NoVerdict
from accord.errors import SettingsError, WorkError
from accord.settings.endpoint import EndpointSettings
from tests.compare.endpoint import SCHEMA
from tests.fake_openai import FakeOpenAi, Reply, completion, request_text

GOOD = 200, completion("at last")


def connect(fake: FakeOpenAi, **settings: Any) -> Endpoint:
    settings = {"max_concurrent": 1, **settings}
    return Endpoint(EndpointSettings(base_url=fake.url, **settings), "m")


def ask(endpoint: Endpoint, *texts: str) -> list[str]:
    answers = endpoint.complete([ChatRequest(text, SCHEMA) for text in texts or ("q",)])
    return [a.text if isinstance(a, CachedAnswer) else a.reason for a in answers]


def first(count: int, reply: Reply) -> Callable[[Any], Reply]:
    """Gives a reply `count` times, and then an answer."""
    left = [count]

    def answer(body: Any) -> Reply:
        left[0] -= 1
        return reply if left[0] >= 0 else GOOD

    return answer


HTML = {"Content-Type": "text/html; charset=utf-8"}
MOODS = [
    (200, {"error": {"message": "Provider returned error", "code": 502}}),
    (200, {"error": {"message": "slow down", "code": "429"}}),
    (200, {"error": {"message": "took too long", "code": 408}, "choices": []}),
    (200, {"error": "the runner stopped"}),
    (200, {"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "error"}]}),
    (200, {"choices": None}),
    (200, {"choices": []}),
    (200, {"choices": [None]}),
    (200, {"choices": [{"message": None, "finish_reason": "stop"}]}),
    (200, ""),
    (200, '{"choices": [{"message": {"content": "Verdict'),
    (200, "<html>Bad gateway</html>", HTML),
    (200, "data: {}\n\ndata: [DONE]\n\n", {"Content-Type": "text/event-stream"}),
    (200, {"choices": [{"message": {"content": 3}}]}),
    (200, "null"),
    (408, "timeout"),
    (502, "<html>Bad gateway</html>", HTML),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
]


@pytest.mark.parametrize("mood", MOODS)
def test_what_may_pass_is_sent_again(fake: FakeOpenAi, mood: Reply) -> None:
    fake.answer = first(2, mood)
    assert ask(connect(fake, retries=2)) == ["at last"]
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("mood", "advice"),
    [
        (MOODS[0], r"status 502 in its body: Provider returned error.*fails; look at its log"),
        (MOODS[1], r"status 429 in its body: slow down.*lower max_concurrent"),
        (MOODS[3], r"an error in its body: the runner stopped. The server"),
        (MOODS[6], r"no chat completion but .*base_url is not the address"),
        (MOODS[9], r"no chat completion but nothing at all"),
        (MOODS[11], r"no chat completion but HTML \('<html>Bad gateway"),
        (MOODS[17], r"status 529: Overloaded"),
    ],
)
def test_what_does_not_pass_is_quoted(fake: FakeOpenAi, mood: Reply, advice: str) -> None:
    fake.answer = lambda body: mood
    with pytest.raises(WorkError, match=f"in 2 attempts: {advice}"):
        ask(connect(fake, retries=1))


def test_a_refusal_within_a_200_is_one(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (200, {"error": {"message": "cannot read this", "code": 400}})
    assert ask(connect(fake, output="text")) == ["status 400: cannot read this"]
    assert len(fake.requests) == 1
    fake.answer = lambda body: (200, {"error": {"message": "who are you", "code": 401}})
    with pytest.raises(SettingsError, match=r"who are you.*api_key_env"):
        ask(connect(fake))


def test_an_empty_account_is_not_asked_again(fake: FakeOpenAi) -> None:
    quota = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    fake.answer = lambda body: (429, {"error": quota})
    with pytest.raises(SettingsError, match="add credit"):
        ask(connect(fake))
    assert len(fake.requests) == 1


def test_a_server_that_has_moved(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (308, "", {"Location": "https://elsewhere/v1"})
    with pytest.raises(SettingsError, match=r"it has moved to https://elsewhere/v1.*base_url"):
        ask(connect(fake))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "", "refusal": "I can't judge this."}, "declined to answer: I can't"),
        ({"content": None, "refusal": "no"}, "declined to answer: no"),
    ],
)
def test_a_model_that_declines(fake: FakeOpenAi, message: Any, reason: str) -> None:
    fake.answer = lambda body: (200, {"choices": [{"message": message, "finish_reason": "stop"}]})
    endpoint = connect(fake)
    (answer,) = endpoint.complete([ChatRequest("q", SCHEMA)])
    assert isinstance(answer, Refusal)
    assert reason in answer.reason
    assert endpoint.usage.refused == 1


def test_a_filtered_answer_is_no_verdict(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (200, completion("Verdict: A", "content_filter"))
    judge = AiJudge(EndpointSettings(base_url=fake.url), "m")
    (ranks,) = judge.ranks([Candidates("p", ("x", "y"), (True, True))])
    assert isinstance(ranks, NoVerdict)
    assert "a filter withheld the answer" in ranks.reason
    assert len(fake.requests) == 2  # one for each order: asking again would not help


def test_content_in_parts(fake: FakeOpenAi) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Verdict: A"}]},
        {"type": "text", "text": "Verdict: "},
        {"type": "text", "text": "B"},
    ]
    fake.answer = lambda body: (200, {"choices": [{"message": {"content": parts}}]})
    assert ask(connect(fake)) == ["Verdict: B"]


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_an_answer_that_was_cut(fake: FakeOpenAi, reason: str) -> None:
    fake.answer = lambda body: (200, completion("Verdict: A", reason))
    (answer,) = connect(fake).complete([ChatRequest("q", SCHEMA)])
    assert isinstance(answer, CachedAnswer)
    assert answer.cut


def picky(body: Any) -> Reply:
    """An OpenAI reasoning model: another limit, and no temperature but 1."""
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return 400, {"error": {"message": message, "param": "max_tokens"}}
    if body.get("temperature", 1) != 1:
        message = (
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the "
            "default (1) value is supported."
        )
        return 400, {"error": {"message": message, "param": "temperature"}}
    return GOOD


def test_a_temperature_that_is_refused_is_dropped_with_one_warning(
    fake: FakeOpenAi, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answer = picky
    with caplog.at_level(logging.WARNING):
        assert ask(connect(fake), "1", "2", "3") == ["at last"] * 3
    assert len(fake.requests) == 3 + 2  # it finds out by the first
    assert not {"temperature", "max_tokens"} & set(fake.requests[-1])
    assert "response_format" in fake.requests[-1]
    (warning,) = (r.getMessage() for r in caplog.records)
    assert "takes no temperature (status 400: Unsupported value" in warning
    assert "temperature to null" in warning


def test_threads_that_find_out_together_warn_once(
    fake: FakeOpenAi, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answer = picky
    with caplog.at_level(logging.WARNING):
        ask(connect(fake, max_concurrent=8), *map(str, range(20)))
    assert len(caplog.records) == 1


def test_json_of_any_form_where_a_schema_is_refused(fake: FakeOpenAi) -> None:
    def answer(body: Any) -> Reply:
        if body.get("response_format", {}).get("type") == "json_schema":
            message = "response_format.type must be 'text' or 'json_object', not 'json_schema'"
            return 400, {"error": {"message": message}}
        return GOOD

    fake.answer = answer
    ask(connect(fake), "1", "2")
    assert [b.get("response_format", {}).get("type") for b in fake.requests] == [
        "json_schema",
        "json_object",
        "json_object",
    ]


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (400, "max_tokens is too large: 512. This model supports at most 256", "Lower the judge's"),
        (404, "The model `m` does not exist.", r"model \('m'\)"),
        (400, "temperature: must be at least 0.1", "temperature=null"),
        (402, "no", "add credit"),
        (403, "no", "api_key_env"),
    ],
)
def test_a_refusal_of_all_requests_ends_at_the_first(
    fake: FakeOpenAi, status: int, message: str, advice: str
) -> None:
    fake.answer = lambda body: (status, {"error": {"message": message}})
    with pytest.raises(SettingsError, match=advice):
        ask(connect(fake), *map(str, range(20)))
    assert {request_text(body) for body in fake.requests} == {"0"}


def test_a_weaker_form_that_is_refused_too_is_forgotten(fake: FakeOpenAi) -> None:
    def answer(body: Any) -> Reply:
        if body["messages"][0]["content"] == "odd":
            return 400, {"error": {"message": "Bad Request"}}
        return GOOD

    fake.answer = answer
    endpoint = connect(fake)
    assert ask(endpoint, "odd", "even") == ["status 400: Bad Request", "at last"]
    assert "response_format" in fake.requests[-1]


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (completion("Verdict: A", "length"), "answer_tokens=512"),
        (completion(""), "reasoning may have taken all of them"),
        (completion("<think>Verdict: A"), "reasoning parser"),
        (completion("Hard to say."), "follows the form"),
    ],
)
def test_the_advice_fits_the_answer(fake: FakeOpenAi, reply: Any, advice: str) -> None:
    fake.answer = lambda body: (200, reply)
    judge = AiJudge(EndpointSettings(base_url=fake.url, attempts=1), "m")
    (ranks,) = judge.ranks([Candidates("p", ("x", "y"), (True, True))])
    assert isinstance(ranks, NoVerdict)
    assert advice in ranks.advice
