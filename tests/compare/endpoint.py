"""An endpoint at the fake server, and what a test asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Endpoint, Refusal
from accord.settings.endpoint import EndpointSettings
from tests.fake_openai import FakeOpenAi, Reply, completion, request_text

SCHEMA = {"type": "object", "properties": {"verdict": {"enum": ["A", "B"]}}}


def answer_to(body: Any) -> Reply:
    """A reply that names the request's text."""
    return 200, completion(f"answer to {request_text(body)}")


def connect(fake: FakeOpenAi, model: str = "m", **settings: Any) -> Endpoint:
    return Endpoint(EndpointSettings(base_url=fake.url, **settings), model)


def make_requests(*texts: str) -> list[ChatRequest]:
    return [ChatRequest(text, SCHEMA) for text in texts]


def texts(answers: list[CachedAnswer | Refusal]) -> list[str]:
    assert all(isinstance(answer, CachedAnswer) for answer in answers)
    return [answer.text for answer in answers if isinstance(answer, CachedAnswer)]


def failing(count: int, first: Reply) -> Callable[[Any], Reply]:
    """Gives the reply `first` `count` times, and then an answer."""
    left = [count]

    def answer(body: Any) -> Reply:
        left[0] -= 1
        return first if left[0] >= 0 else (200, completion("at last"))

    return answer
