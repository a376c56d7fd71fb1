"""The engine in front of another server: streams, `n`, errors, timeouts and hang-ups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from accord.errors import WorkError
from accord.records import Message, with_context
from accord.respond.protocol import SamplingSettings
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.best_of.stopping import Checkpoint
from accord.serve.engine import Accepted, Delta, Drops, EngineRequest, Event, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.upstream.engine import UpstreamEngine
from accord.serve.upstream.server import find_model
from accord.serve.upstream.wire import body_of, read_chunk, read_events
from tests.serve.best_of import answers, by_words
from tests.serve.fake_upstream import FakeUpstream, fake_upstream

CHAT = (Message("system", "be"), Message("user", "hi"))


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


def request(n: int = 1, **more: Any) -> EngineRequest:
    return EngineRequest(CHAT, SamplingSettings(n, temperature=0.7), **more)


def ask(
    server: FakeUpstream, *requests: EngineRequest, **more: Any
) -> tuple[UpstreamEngine, list[list[Event]]]:
    engine = UpstreamEngine(server.url, "served", key="k", **more)

    async def read() -> list[list[Event]]:
        try:
            return [[event async for event in engine.stream(asked)] for asked in requests]
        finally:
            await engine.close()

    return engine, asyncio.run(read())


def test_a_stream_passes_through(upstream: FakeUpstream) -> None:
    asked = request(seed=3, max_tokens=9, top_logprobs=1)
    _, (events,) = ask(upstream, asked)
    assert isinstance(events[0], Accepted)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [delta.text for delta in deltas] == ["one", " two", ""]
    assert deltas[-1].finish_reason == "stop"
    assert deltas[0].tokens[0].logprob == -0.5
    assert deltas[1].tokens[0].top[0].bytes == b" two"
    assert events[-1] == TokenUsage(5, 2)
    assert upstream.bodies == [
        {
            "model": "served",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "top_p": 1.0,
            "seed": 3,
            "max_tokens": 9,
            "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}],
            "logprobs": True,
            "top_logprobs": 1,
        }
    ]
    assert upstream.keys == ["Bearer k"]
    # Text and token ids go to /completions.
    _, ((*_, usage),) = ask(upstream, EngineRequest("say", SamplingSettings(top_p=0.5)))
    assert usage == TokenUsage(5, 1)
    assert (upstream.bodies[-1]["prompt"], upstream.bodies[-1]["top_p"]) == ("say", 0.5)
    ask(upstream, EngineRequest((4, 5), SamplingSettings()))
    assert upstream.bodies[-1]["prompt"] == [4, 5]


def test_n_is_asked_for_where_it_is_honoured(upstream: FakeUpstream) -> None:
    engine, (events,) = ask(upstream, request(3))
    assert answers(events) == {0: "one two", 1: "three", 2: "four five six"}
    assert events[-1] == TokenUsage(5, 6)
    assert [body.get("n") for body in upstream.bodies] == [3]
    assert engine.honours_n is True


@pytest.mark.parametrize("mood", ["ignores n", "refuses n"])
def test_a_server_without_n_gets_as_many_requests(upstream: FakeUpstream, mood: str) -> None:
    upstream.mood, upstream.delay = mood, 0.1
    engine, (events, again) = ask(upstream, request(3, seed=1), request(3, seed=1))
    assert sorted(answers(events)) == [0, 1, 2]
    assert sorted(answers(events).values()) == ["four five six", "one two", "three"]
    assert events[-1] == TokenUsage(5, 6)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    assert engine.honours_n is False
    # It is not tried again, all are asked at the same time, and their seeds differ.
    bodies = upstream.bodies[-3:]
    assert [body.get("n") for body in bodies] == [None] * 3
    assert len({body["seed"] for body in bodies}) == 3
    assert upstream.most_running == 3
    assert sorted(answers(again)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("mood", "status", "message"),
    [
        ("400", 400, "no"),
        ("401", 502, "refuses this server's key"),
        ("404", 404, "no"),
        ("429", 429, "no"),
        ("500", 502, "status 500"),
        ("503", 503, "no"),
        ("breaks", 502, "no JSON object"),
        ("ends early", 502, "before its end"),
        ("numbers from 1", 502, "answers response 1, and 1 were asked for"),
        ("reports an error", 502, "out of memory"),
        ("has no index", 502, "chunk of another form"),
        ("hangs", 504, "in time"),
    ],
)
def test_errors_are_passed_on(upstream: FakeUpstream, mood: str, status: int, message: str) -> None:
    upstream.mood, timeout = mood, 0.3 if mood == "hangs" else 30.0
    with pytest.raises(ApiError, match=message) as caught:
        ask(upstream, request(), timeout=timeout)
    assert caught.value.status == status
    assert caught.value.retry_after == (7 if mood == "429" else None)
    if mood in ("400", "404"):
        assert (caught.value.param, caught.value.code) == ("p", "c")
    # One of several requests that fails is the answer of all.
    with pytest.raises(ApiError) as caught:
        ask(upstream, request(2), timeout=timeout)
    assert caught.value.status == status


def test_an_answer_without_an_end_among_others_is_no_answer(upstream: FakeUpstream) -> None:
    upstream.mood = "one ends early"
    with pytest.raises(ApiError, match="before its end") as caught:
        ask(upstream, request(3))
    assert caught.value.status == 502
    # Nor where each was asked for apart.
    with pytest.raises(ApiError, match="before its end"):
        ask(upstream, request(3, drops=Drops()))


def test_a_server_that_honoured_n_is_not_asked_again_without_it(upstream: FakeUpstream) -> None:
    async def ask_twice() -> UpstreamEngine:
        engine = UpstreamEngine(upstream.url, "served")
        async for _ in engine.stream(request(2)):
            pass
        upstream.mood = "refuses n"  # of this request alone: the next may be honoured
        with pytest.raises(ApiError, match="n must be 1") as caught:
            async for _ in engine.stream(request(2)):
                pass
        assert caught.value.status == 400
        gauges = engine.gauges()
        assert gauges["upstream_requests_total"] == 2
        assert gauges["upstream_failures_total"] == 1
        assert gauges["upstream_running"] == 0
        await engine.close()
        return engine

    assert asyncio.run(ask_twice()).honours_n is True
    assert len(upstream.bodies) == 2


def test_what_a_conversation_asks_of_the_template_is_passed_on() -> None:
    turns = with_context((*CHAT, Message("assistant", "It is")), {"enable_thinking": False})
    asked = EngineRequest(turns, SamplingSettings(), continues=True)
    body = body_of(asked, "m", 1, None)
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"][-1] == {"role": "assistant", "content": "It is"}
    plain = body_of(request(), "m", 1, None)
    assert not plain.keys() & {"continue_final_message", "chat_template_kwargs", "n", "seed"}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("eos", "stop")],
)
def test_why_a_response_ended(reason: str, finish: str) -> None:
    choice = {"index": 2, "delta": {"content": "a"}, "finish_reason": reason}
    assert read_chunk({"choices": [choice]}) == ([Delta(2, "a", (), finish)], None)  # type: ignore[arg-type]


def test_no_character_of_a_text_ends_an_event() -> None:
    # CR, LF or both end a line of a server-sent stream; these end one of Python's.
    content = {"text": "a\x85\u2028\u2029 ü𝔘"}
    event = json.dumps(content, ensure_ascii=False)
    stream = f": hi\r\ndata: {event}\r\n\r\ndata:{event}\n\rdata: [DONE]\n\ndata: no".encode()

    async def read(size: int) -> list[dict[str, Any]]:
        async def parts() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(stream), size):
                yield stream[start : start + size]

        return [event async for event in read_events(parts())]

    for size in (1, 2, 7, len(stream)):
        assert asyncio.run(read(size)) == [content] * 2


def test_no_proxy_of_the_environment_is_asked_for_this_machine(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    _, (events,) = ask(upstream, request())
    assert answers(events) == {0: "one two"}
    assert find_model(upstream.url) == "served"


def test_a_server_that_is_not_there() -> None:
    with fake_upstream() as server:
        assert find_model(server.url, key="k") == "served"
        assert server.keys == ["Bearer k"]
        url = server.url
    with pytest.raises(WorkError, match="lists no models"):
        find_model(url, timeout=1.0)

    async def ask_nobody() -> None:
        engine = UpstreamEngine(url, "m")
        with pytest.raises(ApiError) as caught:
            await engine.check_health()
        assert caught.value.status == 503
        with pytest.raises(ApiError) as caught:
            async for _ in engine.stream(request()):
                pass
        assert caught.value.status == 502
        await engine.close()

    asyncio.run(ask_nobody())


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("two",), "one "),
        (("ne tw", "zz"), "o"),  # over the border of two pieces
        (("e t", "two"), "on"),  # the first of several
        (("two x",), "one two"),  # what only began like one
    ],
)
def test_nothing_of_a_stop_string_is_shown_where_a_server_shows_it(
    upstream: FakeUpstream, stop: tuple[str, ...], text: str
) -> None:
    # As `transformers serve` does.
    asked = EngineRequest(CHAT, SamplingSettings(stop=stop))
    _, (events,) = ask(upstream, asked)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == text
    assert [d.finish_reason for d in deltas if d.finish_reason is not None] == ["stop"]
    assert events[-1] == TokenUsage(5, 2)
    # Those that are asked for apart.
    upstream.mood = "ignores n"
    _, (events,) = ask(upstream, EngineRequest(CHAT, SamplingSettings(2, stop=("e", "v"))))
    assert sorted(answers(events).values()) == ["four fi", "thr"]


def test_log_probs_that_a_server_does_not_give_are_an_error(upstream: FakeUpstream) -> None:
    asked = EngineRequest("say", SamplingSettings(), top_logprobs=0)  # it gives them in chats
    with pytest.raises(ApiError, match="gives no log-probs") as caught:
        ask(upstream, asked)
    assert (caught.value.status, caught.value.param) == (400, "logprobs")


def test_usage_that_is_not_reported_is_marked(upstream: FakeUpstream) -> None:
    upstream.mood = "no usage"
    _, (events,) = ask(upstream, request())
    assert events[-1] == TokenUsage(0, 2, {"usage_estimated": True})


def test_a_client_that_hangs_up_ends_the_request_there(upstream: FakeUpstream) -> None:
    upstream.texts, upstream.delay = ["word " * 200], 0.02

    async def hang_up() -> None:
        engine = UpstreamEngine(upstream.url, "served")
        events = engine.stream(request(2))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()
        assert engine.gauges()["upstream_running"] == 0
        await engine.close()
        for _ in range(100):
            if not upstream.running:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the server still generates")

    asyncio.run(hang_up())


def test_best_of_n_in_front_of_a_server_prunes_what_is_hopeless(upstream: FakeUpstream) -> None:
    upstream.texts = [f"{word} {'x ' * 60}x" for word in ("a", "b", "c", "d")]
    upstream.delay = 0.005
    scorer = Scorer(by_words({"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5}))
    options = BestOfOptions(n=4, prune=(Checkpoint(2, 0.25),))

    async def ask_best() -> list[Event]:
        engine = BestOfEngine(UpstreamEngine(upstream.url, "served"), scorer, options)
        events = [event async for event in engine.stream(request())]
        await engine.close()
        return events

    events = asyncio.run(ask_best())
    assert answers(events)[0] == upstream.texts[1]
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord == {"best_of": 4, "pruned": 3, "usage_estimated": True}
    assert 62 < usage.completion_tokens < 62 + 3 * 40  # the others were cut off early


def test_no_text_comes_before_all_requests_are_accepted(upstream: FakeUpstream) -> None:
    # The status of an answer is sent when it is accepted: text before it would have none.
    upstream.mood, upstream.stagger = "refuses n", 0.1
    _, (events,) = ask(upstream, request(3))
    assert isinstance(events[0], Accepted)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    assert sorted(answers(events).values()) == ["four five six", "one two", "three"]
