"""The openai client against the server: answers, streams, and its own error classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accord.serve.access import Access
from tests.serve.conftest import Served

openai = pytest.importorskip("openai", reason="the openai client is not installed")

MESSAGES = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_chat_whole_and_streamed_is_the_same(client: Any) -> None:
    options = {"model": "toy", "messages": MESSAGES, "max_tokens": 10, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=1)
    texts = ["", ""]
    usage = None
    chunks = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage == whole.usage
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].logprob <= 0
    assert {choice.finish_reason for choice in whole.choices} <= {"stop", "length"}


def test_completions_and_models(client: Any) -> None:
    answer = client.completions.create(
        model="toy", prompt=["the cat", "a"], max_tokens=3, logprobs=1
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.tokens) <= 3
    assert [model.id for model in client.models.list()] == ["toy", "models/toy"]


def test_errors_are_the_clients_own_classes(client: Any, start: Callable[..., Served]) -> None:
    def create(client: Any = client, **options: Any) -> Any:
        body = {"model": "toy", "messages": MESSAGES, "max_tokens": 2, **options}
        return client.chat.completions.create(**body)

    with pytest.raises(openai.NotFoundError) as missing:
        create(model="other")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        create(response_format={"type": "json_object"})
    assert refused.value.param == "response_format"
    closed = start(access=Access("127.0.0.1", ("key",)))
    wrong = openai.OpenAI(base_url=f"{closed.url}/v1", api_key="other", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        create(wrong)
    right = openai.OpenAI(base_url=f"{closed.url}/v1", api_key="key", max_retries=0)
    assert create(right).usage.completion_tokens <= 2
