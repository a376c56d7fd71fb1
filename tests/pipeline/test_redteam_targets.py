"""A red team's endpoint: how far its answers run ahead of the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from accord.errors import WorkError
from accord.pipeline.redteam.targets import Call, EndpointTarget
from accord.records import Message
from accord.respond import http as attempts
from accord.settings.redteam import RedteamSettings, TargetSettings
from tests.fake_openai import FakeOpenAi, Reply, completion


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    server = FakeOpenAi()
    yield server
    server.close()


def target(fake: FakeOpenAi, width: int) -> EndpointTarget:
    settings = TargetSettings(model="m", base_url=fake.url, max_concurrent=width, retries=0)
    run = RedteamSettings(models=[settings], suites=["builtin"], output_dir="unused")
    return EndpointTarget(settings, run)


def calls(count: int) -> list[Call]:
    return [Call((Message("user", f"Number {n}?"),), n) for n in range(count)]


@pytest.mark.parametrize("width", [1, 3])
def test_a_killed_run_loses_no_more_than_the_calls_under_way(fake: FakeOpenAi, width: int) -> None:
    """A call is made only when an answer before it was taken, and so logged."""
    endpoint = target(fake, width)
    taken = []
    for index, answer in endpoint.answer(calls(12)):
        time.sleep(0.02)  # a slow log: the threads would run ahead of it
        assert len(fake.requests) <= len(taken) + width
        assert answer.text == "Verdict: A"
        taken.append(index)
    assert sorted(taken) == list(range(12))
    assert len(fake.requests) == 12


def test_as_many_calls_are_under_way_as_the_settings_say(fake: FakeOpenAi) -> None:
    together = threading.Barrier(3)

    def answer(body: Any) -> Reply:
        together.wait(30)  # broken unless three come at a time
        return 200, completion("so")

    fake.answer = answer
    assert len(list(target(fake, 3).answer(calls(9)))) == 9


def test_answers_under_way_come_before_the_error(fake: FakeOpenAi) -> None:
    """Of three at a time one fails: the two others are answered."""
    together = threading.Barrier(3)

    def answer(body: Any) -> Reply:
        together.wait(30)
        return (500, "down") if "Number 0" in str(body) else (200, completion("so"))

    fake.answer = answer
    taken: list[int] = []
    with pytest.raises(WorkError, match="did not answer in 1 attempts"):
        taken.extend(index for index, _ in target(fake, 3).answer(calls(3)))
    assert sorted(taken) == [1, 2]
    assert len(fake.requests) == 3
