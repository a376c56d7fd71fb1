"""Answers of both APIs: what a request gets is what the sampler gives, streamed or not."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.template import encode_prompt
from accord.records import Message
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.text import response_text
from accord.serve.answers import _token
from accord.serve.engine import (
    Accepted,
    Delta,
    EngineRequest,
    Event,
    TokenLogprob,
    TokenUsage,
)
from accord.serve.local import LocalEngine
from accord.serve.parameters import ApiRequest
from accord.serve.routes import stream_all
from tests.serve.conftest import Served
from tests.serve.fake_engine import FakeEngine


def sampled(
    served: Served, text: str = "the cat", *, chat: bool = True, seed: int = 0, **settings: Any
) -> list[tuple[str, Sample]]:
    """The texts and samples of the local sampler."""
    prompt = encode_prompt((Message("user", text),) if chat else text, served.lm.tokenizer)
    ((*samples,),) = LocalSampler(served.lm)(
        [prompt], SamplingSettings(**settings), seed=seed, streams=[0]
    )
    return [(response_text(s, served.lm.tokenizer, prompt), s) for s in samples]


def events(response: Any) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = [part for part in response.text.split("\n\n") if part]
    assert parts[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


@pytest.mark.parametrize("stream", [False, True])
def test_greedy_chat_is_the_samplers(served: Served, stream: bool) -> None:
    ((expected, sample),) = sampled(served, temperature=0, max_new_tokens=24)
    response = served.chat(temperature=0, max_tokens=24, stream=stream)
    assert response.status_code == 200
    if stream:
        chunks = events(response)
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        choices = [chunk["choices"][0] for chunk in chunks]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        reasons = [choice["finish_reason"] for choice in choices]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert not any("usage" in chunk for chunk in chunks)
    else:
        answer = response.json()
        (choice,) = answer["choices"]
        text, reasons = choice["message"]["content"], [choice["finish_reason"]]
        n = len(sample.tokens)
        prompt = answer["usage"]["prompt_tokens"]
        assert answer["usage"] == {
            "prompt_tokens": prompt,
            "completion_tokens": n,
            "total_tokens": prompt + n,
        }
        assert choice["message"]["role"] == "assistant"
        assert choice["logprobs"] is None
    assert text == expected
    assert reasons[-1] == ("stop" if sample.finished else "length")
    assert set(reasons[:-1]) <= {None}


@pytest.mark.parametrize("stream", [False, True])
def test_seeded_candidates_are_the_samplers(served: Served, stream: bool) -> None:
    settings = {"temperature": 0.8, "top_p": 0.9}
    expected = sampled(served, seed=11, num_responses=3, max_new_tokens=10, **settings)
    response = served.chat(n=3, seed=11, max_completion_tokens=10, stream=stream, **settings)
    texts = ["", "", ""]
    if stream:
        for chunk in events(response):
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
    else:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in choices]
    assert texts == [text for text, _ in expected]


def test_any_seed_draws_the_same_answer_again(served: Served) -> None:
    for seed in (-1, -(1 << 63), (1 << 63) - 1):
        first, again = (served.complete(seed=seed, max_tokens=12).json() for _ in range(2))
        assert first["choices"] == again["choices"]


def test_without_a_seed_answers_differ(served: Served) -> None:
    texts = {served.chat(max_tokens=12).json()["choices"][0]["message"]["content"] for _ in "ab"}
    assert len(texts) == 2


def test_the_usage_chunk_comes_only_where_it_is_asked_for(served: Served) -> None:
    response = served.chat(max_tokens=3, stream=True, stream_options={"include_usage": True})
    *chunks, last = events(response)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    response = served.chat(max_tokens=3, stream=True, stream_options={"include_usage": False})
    assert not any("usage" in chunk for chunk in events(response))


@pytest.mark.parametrize("stop", ["e", ["zz", "e", "t"]])
def test_stop_strings_never_show(served: Served, stop: Any) -> None:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    expected = sampled(served, seed=2, num_responses=6, max_new_tokens=40, stop=strings)
    options = {"seed": 2, "n": 6, "max_tokens": 40, "stop": stop}
    choices = served.chat(**options).json()["choices"]
    assert [c["message"]["content"] for c in choices] == [text for text, _ in expected]
    assert [c["finish_reason"] for c in choices] == [
        "stop" if sample.finished else "length" for _, sample in expected
    ]
    assert "stop" in {c["finish_reason"] for c in choices}
    texts = [""] * 6
    for chunk in events(served.chat(**options, stream=True)):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        assert not any(s in texts[choice["index"]] for s in strings)
    assert texts == [text for text, _ in expected]


def test_chat_logprobs_are_the_models(served: Served) -> None:
    ((_, sample),) = sampled(served, seed=5, max_new_tokens=8)
    response = served.chat(seed=5, max_tokens=8, logprobs=True, top_logprobs=2)
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in content] == pytest.approx(sample.logps[:8], abs=1e-4)
    whole = b"".join(bytes(token["bytes"]) for token in content)
    assert whole.decode("utf-8", "replace") == response.json()["choices"][0]["message"]["content"]
    for token in content:
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] >= token["top_logprobs"][1]["logprob"]
    streamed = []
    options = {"seed": 5, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}
    for chunk in events(served.chat(**options, stream=True)):
        logprobs = chunk["choices"][0]["logprobs"]
        streamed += [] if logprobs is None else logprobs["content"]
    assert streamed == content


def test_a_control_token_is_no_part_of_the_text_nor_of_the_log_probs(served: Served) -> None:
    control = control_tokens(served.lm.tokenizer).ids
    samples = sampled(served, "the cat", chat=False, seed=4, num_responses=16, max_new_tokens=6)
    assert any(set(sample.tokens[:-1]) & control for _, sample in samples)
    response = served.complete("the cat", n=16, seed=4, max_tokens=6, logprobs=0).json()
    for choice, (_, sample) in zip(response["choices"], samples, strict=True):
        logps = [p for t, p in zip(sample.tokens, sample.logps, strict=True) if t not in control]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(logps, abs=1e-4)
        assert max(choice["logprobs"]["text_offset"], default=0) <= len(choice["text"])


def test_infinity_is_no_json() -> None:
    body = _token(TokenLogprob("a", b"a", -math.inf, ()))
    assert body["logprob"] == -9999.0  # as OpenAI's API writes what is very unlikely
    assert _token(TokenLogprob("a", b"a", math.nan, ()))["logprob"] == -9999.0


def test_completions_of_several_prompts_with_logprobs(served: Served) -> None:
    prompts = ["the cat", "a dog ran"]
    response = served.complete(prompts, n=2, seed=4, max_tokens=6, logprobs=1).json()
    assert response["object"] == "text_completion"
    expected = [
        text
        for prompt in prompts
        for text, _ in sampled(
            served, prompt, chat=False, seed=4, num_responses=2, max_new_tokens=6
        )
    ]
    assert [choice["text"] for choice in response["choices"]] == expected
    assert [choice["index"] for choice in response["choices"]] == [0, 1, 2, 3]
    for choice in response["choices"]:
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) <= 6
        assert all(len(top) == 1 for top in logprobs["top_logprobs"])
        assert logprobs["text_offset"][0] == 0
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    texts = [""] * 4
    for chunk in events(served.complete(prompts, n=2, seed=4, max_tokens=6, stream=True)):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == expected


def test_completions_have_sixteen_tokens_unless_asked_otherwise(served: Served) -> None:
    usage = served.complete(seed=1).json()["usage"]
    assert usage["completion_tokens"] <= 16
    ((_, sample),) = sampled(served, chat=False, seed=1, max_new_tokens=16)
    assert usage["completion_tokens"] == len(sample.tokens)


def test_token_ids_are_a_prompt(served: Served) -> None:
    ids = list(encode_prompt("the cat", served.lm.tokenizer))
    text = served.complete("the cat", temperature=0).json()["choices"][0]["text"]
    assert served.complete(ids, temperature=0).json()["choices"][0]["text"] == text
    assert served.complete([ids], temperature=0).json()["choices"][0]["text"] == text


def test_prompts_are_rendered_as_apply_chat_template_does(served: Served) -> None:
    tokenizer = served.lm.tokenizer
    messages = [
        {"role": "system", "content": "please"},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"},
    ]
    for extra, options in (
        ({}, {"add_generation_prompt": True}),
        ({"continue_final_message": True}, {"continue_final_message": True}),
    ):
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        body = {"model": "toy", "messages": messages, "temperature": 0, "max_tokens": 8, **extra}
        answer = served.post("/v1/chat/completions", body).json()
        assert answer["usage"]["prompt_tokens"] == len(ids)
        text = answer["choices"][0]["message"]["content"]
        expected = served.complete(list(ids), temperature=0, max_tokens=8).json()
        assert text == expected["choices"][0]["text"]


def test_parts_of_text_are_one_text(served: Served) -> None:
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "cat"}]
    body = {"model": "toy", "temperature": 0, "max_tokens": 6}
    whole = [{"role": "user", "content": "the\ncat"}]
    one = served.post("/v1/chat/completions", {**body, "messages": whole}).json()
    split = [{"role": "user", "content": parts}]
    two = served.post("/v1/chat/completions", {**body, "messages": split}).json()
    assert one["choices"] == two["choices"]


def test_models_and_health(served: Served) -> None:
    data = served.get("/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["toy", "models/toy"]
    assert served.get("/v1/models/models/toy").json()["id"] == "models/toy"
    assert served.get("/v1/models/other").status_code == 404
    assert served.get("/health").json() == {"status": "ok"}


def test_metrics_count_tokens_and_answers(served: Served) -> None:
    def metric(name: str) -> float:
        lines = served.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0)

    path = 'accord_answers_total{path="/v1/completions",status="200"}'
    before, answers = metric("accord_generated_tokens_total"), metric(path)
    tokens = served.complete("a secret text", max_tokens=7, seed=0).json()["usage"]
    assert metric("accord_generated_tokens_total") == before + tokens["completion_tokens"]
    assert metric(path) == answers + 1
    assert metric("accord_rows_running") == 0
    assert "secret" not in served.get("/metrics").text


class _Unequal(FakeEngine):
    """Accepts the prompt `late` only after it has answered the others."""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        if request.prompt == "late":
            await asyncio.sleep(0.05)
        async for event in super().stream(request):
            yield event


def test_no_text_comes_before_all_prompts_are_accepted() -> None:
    async def read() -> list[Event]:
        requests = tuple(EngineRequest(prompt, SamplingSettings()) for prompt in ("soon", "late"))
        asked = ApiRequest("completions", "m", requests, True, False)
        engine = _Unequal(lambda request: [f"to {request.prompt}"])
        return [event async for event in stream_all(engine, asked)]

    accepted, *deltas, usage = asyncio.run(read())
    assert isinstance(accepted, Accepted)
    texts = {0: "", 1: ""}
    for event in deltas:
        assert isinstance(event, Delta)
        texts[event.index] += event.text
    assert texts == {0: "to soon", 1: "to late"}
    assert usage == TokenUsage(14, 4)


def test_a_prompts_beginning_that_was_read_before_is_not_read_again(
    start: Callable[..., Served],
) -> None:
    text = "the cat sat on the mat " * 5
    asked = {"seed": 5, "max_tokens": 8, "temperature": 1.0}
    served, plain = start(), start(caches_prefixes=False)
    answers = [s.chat(text, **asked).json()["choices"] for s in (served, served, plain, plain)]
    assert all(answer == answers[0] for answer in answers)  # in fp32, to what is drawn
    # A template and some thirty tokens: at least a block of 16, and never the last token.
    prompt = served.chat(text, **asked).json()["usage"]["prompt_tokens"]
    assert prompt > 17
    reused = served.engine.gauges()["prompt_tokens_reused_total"]
    assert reused == 2 * ((prompt - 1) // 16 * 16)
    assert plain.engine.gauges()["prompt_tokens_reused_total"] == 0
    assert f"accord_prompt_tokens_reused_total {int(reused)}" in served.get("/metrics").text


def test_a_full_queue_estimates_when_responses_will_have_ended() -> None:
    engine = LocalEngine.__new__(LocalEngine)
    engine._counts = Counter()
    assert engine._seconds_until(100) == 1  # nothing is known yet
    engine._counts.update(ended_responses=20, busy_seconds=50)  # 2.5 seconds each
    assert engine._seconds_until(3) == 8
    assert engine._seconds_until(1000) == 600
    engine._counts["busy_seconds"] = 1
    assert engine._seconds_until(3) == 1
