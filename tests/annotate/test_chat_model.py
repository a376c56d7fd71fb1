"""The model that a red team talks with: at an endpoint, and on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")


from accord.annotate.chat_model import ChatAnswer, EndpointChat, LocalChat
from accord.errors import DataError, SettingsError, WorkError
from accord.records import Message
from accord.settings.annotate import AnnotateSettings, ChatSettings
from accord.settings.reading.load import build
from tests.fake_openai import FakeOpenAi, completion

RED = {"task": "redteam", "chat": {"model": "parrot"}}


@pytest.fixture
def openai() -> Iterator[FakeOpenAi]:
    server = FakeOpenAi()
    yield server
    server.close()


def test_a_model_at_an_endpoint(openai: FakeOpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    settings = ChatSettings(
        model="m", base_url=openai.url + "/", api_key_env="KEY", max_new_tokens=9, retries=0
    )
    openai.answer = lambda body: (200, completion("Hi.", "length"))
    model = EndpointChat(settings)
    turns = [Message("system", "s"), Message("user", "u")]
    assert model.answer(turns, seed=0, stream=0) == ChatAnswer("Hi.", False, 3)
    request = openai.requests[0]
    assert [(m["role"], m["content"]) for m in request["messages"]] == [
        ("system", "s"),
        ("user", "u"),
    ]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("m", 9, 0.7)
    assert openai.keys == ["Bearer secret"]
    assert openai.paths == {"/v1/chat/completions"}
    for reply, said in (
        ((500, {"error": {"message": "out of order"}}), "out of order"),
        ((200, "{"), "no chat completion"),
        ((200, completion("", "content_filter")), "filter"),
        ((0, ""), "connection"),
    ):
        openai.answer = lambda body, reply=reply: reply  # type: ignore[misc]
        with pytest.raises(WorkError, match=said):
            model.answer(turns, seed=0, stream=0)
    openai.answer = lambda body: (400, {"error": {"message": "too long"}})
    with pytest.raises(SettingsError, match="too long"):
        model.answer(turns, seed=0, stream=0)
    model.close()


def test_settings_that_do_not_fit() -> None:
    for values, said in (
        ({"task": "redteam"}, "give chat.model"),
        ({"chat": {"model": "m"}}, "chat is for task=redteam"),
        ({**RED, "overlap": 2}, "overlap has no meaning"),
        ({**RED, "gold": "ada"}, "gold has no meaning"),
        ({"task": "redteam", "chat": {"model": "m", "base_url": "host"}}, "no.. the address"),
        ({"task": "redteam", "chat": {"model": "m", "timeout": 3}}, "an endpoint"),
        (
            {"task": "redteam", "chat": {"model": "m", "base_url": "http://h", "device": "cpu"}},
            "this machine",
        ),
    ):
        with pytest.raises(SettingsError, match=said.replace("no.. the", "not the")):
            build(AnnotateSettings, values, where="annotate")


def test_a_model_on_this_machine(tiny_world: Path) -> None:
    model = LocalChat(
        ChatSettings(model=str(tiny_world / "model"), max_new_tokens=8, temperature=5.0)
    )
    turns = [Message("user", "Tell me about rice.")]
    first, same, other = (model.answer(turns, seed=1, stream=n) for n in (5, 5, 6))
    assert first == same
    assert first.text != other.text
    assert 1 <= (first.tokens or 0) <= 8
    assert model.name == tiny_world.name
    with pytest.raises(DataError):
        model.answer([Message("user", "rice " * 3000)], seed=1, stream=0)
    model.close()


def test_nobody_samples_while_a_template_is_rendered_within_its_limits(
    tiny_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit of memory is the whole process's: an answer that is being sampled would fail at it.
    resource = pytest.importorskip("resource")
    model = LocalChat(ChatSettings(model=str(tiny_world / "model"), max_new_tokens=2))
    sampler, is_sampling, go_on = model.sampler, threading.Event(), threading.Event()
    events: list[str] = []

    def slow(*arguments: Any, **options: Any) -> Any:
        events.append("sampling")
        is_sampling.set()
        assert go_on.wait(20)
        events.append("sampled")
        return sampler(*arguments, **options)

    monkeypatch.setattr(model, "sampler", slow)
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: events.append("limit"))
    turns = [Message("user", "Tell me about rice.")]

    def ask(stream: int) -> None:
        model.answer(turns, seed=1, stream=stream)

    first, second = (threading.Thread(target=ask, args=(n,)) for n in range(2))
    first.start()
    assert is_sampling.wait(20)
    second.start()
    second.join(0.3)  # long enough to render
    go_on.set()
    first.join(20)
    second.join(20)
    within = events[events.index("sampling") : events.index("sampled")]
    assert within == ["sampling"]
    assert events.count("limit") > 0
