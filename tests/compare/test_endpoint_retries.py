"""When a request to an endpoint is sent again, and after how long."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from typing import Any

import httpx2
import pytest

from accord.errors import SettingsError, WorkError
from accord.respond import http as attempts
from accord.respond.server_errors import retry_after
from tests.compare.endpoint import answer_to, connect, failing, make_requests, texts
from tests.fake_openai import FakeOpenAi, Reply, completion, request_text


@pytest.fixture(autouse=True)
def _answers(fake: FakeOpenAi) -> None:
    fake.answer = answer_to


@pytest.mark.parametrize(
    "first",
    [
        (0, ""),
        (429, {"error": {"message": "slow down"}}),
        (500, "oops"),
        (503, "later"),
        (429, "", {"Retry-After": "0"}),
    ],
)
def test_a_busy_server_or_a_lost_connection_is_retried(fake: FakeOpenAi, first: Reply) -> None:
    fake.answer = failing(2, first)
    assert texts(connect(fake, retries=2).complete(make_requests("q"))) == ["at last"]
    assert len(fake.requests) == 3
    fake.answer = failing(3, first)
    with pytest.raises(WorkError, match=r"did not answer in 3 attempts: .*run the same command"):
        connect(fake, retries=2).complete(make_requests("other"))


def test_the_wait_that_a_server_asks_for(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(attempts, "FIRST_WAIT", 2.0)
    endpoint = connect(fake)
    monkeypatch.setattr(endpoint._stop, "wait", waits.append)
    asked_waits = iter(["7", "0.5", formatdate(time.time() + 100, usegmt=True), "soon"])

    def answer(body: Any) -> Reply:
        wait = next(asked_waits, None)
        return (429, "", {"Retry-After": wait}) if wait else (200, completion("at last"))

    fake.answer = answer
    assert texts(endpoint.complete(make_requests("q"))) == ["at last"]
    # 2, 4, 8 and 16 s by default, where the server asks for no longer wait.
    assert [waits[0], waits[1], waits[3]] == [7.0, 4.0, 16.0]
    assert 90 < waits[2] <= 100
    fake.answer = lambda body: (429, "quota", {"Retry-After": "3600"})
    with pytest.raises(WorkError, match=r"in 1 attempts: .* quota \(wait 3,600 s, it says\)"):
        endpoint.complete(make_requests("other"))
    assert len(waits) == 4  # an hour is not waited for


def test_an_error_ends_the_waits_of_other_requests(fake: FakeOpenAi) -> None:
    received = threading.Event()

    def answer(body: Any) -> Reply:
        if request_text(body) == "busy":
            received.set()
            return 429, "", {"Retry-After": "200"}
        received.wait(30)
        return 401, "who are you"

    fake.answer = answer
    endpoint = connect(fake)
    with pytest.raises(SettingsError, match="status 401"):
        endpoint.complete(make_requests("busy", "any"))
    assert len(fake.requests) == 2  # and nobody waited for 200 seconds
    fake.answer = lambda body: (200, completion("now"))
    assert texts(endpoint.complete(make_requests("busy"))) == ["now"]


def test_no_server(fake: FakeOpenAi) -> None:
    endpoint = connect(fake, retries=1)
    fake.close()
    with pytest.raises(WorkError, match=r"in 2 attempts: no connection.*base_url"):
        endpoint.complete(make_requests("q"))


def test_an_answer_that_takes_too_long_is_requested_again(fake: FakeOpenAi) -> None:
    calls: list[int] = []

    def slow(body: Any) -> Reply:
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.8)
        return 200, completion("at last")

    fake.answer = slow
    assert texts(connect(fake, timeout=0.3).complete(make_requests("q"))) == ["at last"]


def test_a_date_that_has_passed_is_no_wait() -> None:
    answer = httpx2.Response(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert retry_after(answer) == 0.0
