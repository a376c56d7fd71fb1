"""Questions to an endpoint: what is sent, sent again, kept, refused, and how much it may cost."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from tests.fake_openai import FakeOpenAi, Reply, completion, question_of

from accord.compare.judges.answers import CachedAnswer
from accord.compare.judges.endpoint import Ask, Endpoint, Refused
from accord.errors import SettingsError, StorageError, WorkError
from accord.respond import http as attempts
from accord.settings.endpoint import EndpointSettings, deciding

SCHEMA = {"type": "object", "properties": {"verdict": {"enum": ["A", "B"]}}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    found = FakeOpenAi()
    found.answer = lambda body: (200, completion(f"said of {question_of(body)}"))
    yield found
    found.close()


def connect(fake: FakeOpenAi, model: str = "m", **settings: Any) -> Endpoint:
    return Endpoint(EndpointSettings(base_url=fake.url, **settings), model)


def asks(*texts: str) -> list[Ask]:
    return [Ask(text, SCHEMA) for text in texts]


def texts(found: list[CachedAnswer | Refused]) -> list[str]:
    assert all(isinstance(one, CachedAnswer) for one in found)
    return [one.text for one in found if isinstance(one, CachedAnswer)]


def failing(count: int, first: Reply) -> Callable[[Any], Reply]:
    """An answer that is given so many times before the right one."""
    left = [count]

    def answer(body: Any) -> Reply:
        left[0] -= 1
        return first if left[0] >= 0 else (200, completion("at last"))

    return answer


def test_what_is_asked(fake: FakeOpenAi) -> None:
    endpoint = connect(fake)
    assert endpoint.ask(asks("q")) == [CachedAnswer("said of q", False, 20, 3)]
    assert fake.paths == {"/v1/chat/completions"}
    assert fake.seen == [
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
    assert fake.keys == ["Bearer none"]  # some servers want a key, whatever it is
    connect(fake, temperature=None, output="text").ask(asks("q"))
    assert not {"temperature", "response_format"} & set(fake.seen[-1])


def test_many_questions_come_back_in_order_and_none_is_put_twice(fake: FakeOpenAi) -> None:
    under_way, most, lock = [0], [0], threading.Lock()

    def slow(body: Any) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        with lock:
            under_way[0] -= 1
        return 200, completion(question_of(body))

    fake.answer = slow
    names = [str(i) for i in range(12)]
    endpoint = connect(fake, max_concurrent=3)
    assert texts(endpoint.ask(asks(*names, *names))) == names * 2
    assert len(fake.seen) == 12
    assert most[0] <= 3
    assert endpoint.usage() == {
        "calls": 12,
        "prompt_tokens": 240,
        "answer_tokens": 36,
        "kept": 0,
        "refused": 0,
    }


def test_kept_answers_are_found_by_all_that_decides_them(fake: FakeOpenAi) -> None:
    first = texts(connect(fake).ask(asks("q")))
    again = connect(fake, max_concurrent=1, timeout=5.0, retries=0)
    assert texts(again.ask(asks("q"))) == first
    assert again.tally.kept == 1
    assert len(fake.seen) == 1
    for other in (
        connect(fake, model="another"),
        connect(fake, temperature=0.5),
        connect(fake, answer_tokens=9),
        connect(fake, output="text"),
    ):
        other.ask(asks("q"))
    connect(fake).ask(asks("Q"))
    connect(fake).ask([Ask("q", {})])
    assert len(fake.seen) == 7


def test_a_torn_line_costs_its_own_answer_alone(fake: FakeOpenAi) -> None:
    endpoint = connect(fake)
    endpoint.ask(asks("one"))
    endpoint.ask(asks("two"))
    place = endpoint.answers.place
    place.write_bytes(place.read_bytes()[:-10])  # as if killed while it wrote
    again = connect(fake)
    assert texts(again.ask(asks("one", "two"))) == ["said of one", "said of two"]
    assert (again.tally.kept, again.tally.calls) == (1, 1)
    last = connect(fake)
    last.ask(asks("one", "two"))
    assert last.tally.kept == 2


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_paid(
    fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError):
        connect(fake)
    assert not fake.seen


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
def test_a_busy_server_or_a_lost_line_is_asked_again(fake: FakeOpenAi, first: Reply) -> None:
    fake.answer = failing(2, first)
    assert texts(connect(fake, retries=2).ask(asks("q"))) == ["at last"]
    assert len(fake.seen) == 3
    fake.answer = failing(3, first)
    with pytest.raises(WorkError, match=r"did not answer in 3 attempts: .*run the same command"):
        connect(fake, retries=2).ask(asks("other"))


def test_the_wait_that_a_server_asks_for(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(attempts, "FIRST_WAIT", 2.0)
    endpoint = connect(fake)
    monkeypatch.setattr(endpoint._stop, "wait", waits.append)
    said = iter(["7", "0.5", formatdate(time.time() + 100, usegmt=True), "soon"])

    def answer(body: Any) -> Reply:
        asked = next(said, None)
        return (429, "", {"Retry-After": asked}) if asked else (200, completion("at last"))

    fake.answer = answer
    assert texts(endpoint.ask(asks("q"))) == ["at last"]
    # 2, 4, 8 and 16 s of its own, where the server asks for no longer wait.
    assert [waits[0], waits[1], waits[3]] == [7.0, 4.0, 16.0]
    assert 90 < waits[2] <= 100
    fake.answer = lambda body: (429, "quota", {"Retry-After": "3600"})
    with pytest.raises(WorkError, match=r"in 1 attempts: .* quota \(wait 3,600 s, it says\)"):
        endpoint.ask(asks("other"))
    assert len(waits) == 4  # an hour is not waited for


def test_an_error_ends_the_waits_of_other_questions(fake: FakeOpenAi) -> None:
    asked = threading.Event()

    def answer(body: Any) -> Reply:
        if question_of(body) == "busy":
            asked.set()
            return 429, "", {"Retry-After": "200"}
        asked.wait(30)
        return 401, "who are you"

    fake.answer = answer
    endpoint = connect(fake)
    with pytest.raises(SettingsError, match="status 401"):
        endpoint.ask(asks("busy", "any"))
    assert len(fake.seen) == 2  # and nobody waited for 200 seconds
    fake.answer = lambda body: (200, completion("now"))
    assert texts(endpoint.ask(asks("busy"))) == ["now"]


def test_no_server(fake: FakeOpenAi) -> None:
    endpoint = connect(fake, retries=1)
    fake.close()
    with pytest.raises(WorkError, match=r"in 2 attempts: no connection.*base_url"):
        endpoint.ask(asks("q"))


def test_an_answer_that_takes_too_long_is_asked_for_again(fake: FakeOpenAi) -> None:
    calls: list[int] = []

    def slow(body: Any) -> Reply:
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.8)
        return 200, completion("at last")

    fake.answer = slow
    assert texts(connect(fake, timeout=0.3).ask(asks("q"))) == ["at last"]


def no_schemas(body: Any) -> Reply:
    if "response_format" in body:
        return 400, {"error": {"message": "response_format is not supported"}}
    return 200, completion("Verdict: A")


def test_a_server_without_schemas_answers_in_text(fake: FakeOpenAi) -> None:
    fake.answer = no_schemas
    endpoint = connect(fake, max_concurrent=1)
    assert texts(endpoint.ask(asks("1", "2", "3"))) == ["Verdict: A"] * 3
    assert ["response_format" in body for body in fake.seen] == [True, False, False, False]
    again = connect(fake)
    again.ask(asks("1", "2", "3"))  # which is found again before the server is known
    assert (again.tally.kept, again.tally.calls) == (3, 0)
    strict = connect(fake, output="json_schema")
    (refused,) = strict.ask(asks("1"))
    assert isinstance(refused, Refused)


def test_a_server_that_calls_the_limit_by_its_newer_name(fake: FakeOpenAi) -> None:
    def newer(body: Any) -> Reply:
        if "max_tokens" in body:
            said = "Unsupported parameter: use 'max_completion_tokens' instead."
            return 400, {"error": {"message": said}}
        return 200, completion("at last")

    fake.answer = newer
    assert texts(connect(fake).ask(asks("q"))) == ["at last"]
    assert fake.seen[-1]["max_completion_tokens"] == 512
    assert "response_format" in fake.seen[-1]


def test_a_question_that_is_refused_spoils_no_other(fake: FakeOpenAi) -> None:
    def answer(body: Any) -> Reply:
        if question_of(body) == "long":
            return 400, {"error": {"message": "maximum context length is 8"}}
        return 200, completion("fine")

    fake.answer = answer
    endpoint = connect(fake, max_concurrent=1)
    found = endpoint.ask(asks("a", "long", "b"))
    assert found[1] == Refused("status 400: maximum context length is 8")
    assert texts([found[0], found[2]]) == ["fine", "fine"]
    assert endpoint.tally.refused == 1
    assert "response_format" in fake.seen[-1]  # it was not the schema that was refused


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everything_ends_the_stage(fake: FakeOpenAi, status: int) -> None:
    fake.answer = lambda body: (status, {"error": {"message": "no such model"}})
    with pytest.raises(SettingsError, match=r"no such model.*model \('m'\) and api_key_env"):
        connect(fake).ask(asks("q"))


@pytest.mark.parametrize(
    "answer", ["<html>", [1], {}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}]
)
def test_what_is_no_completion_is_an_error(fake: FakeOpenAi, answer: Any) -> None:
    fake.answer = lambda body: (200, answer)
    with pytest.raises(WorkError, match="no chat completion"):
        connect(fake).ask(asks("q"))


def test_reasoning_without_an_answer_is_an_empty_one(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (200, completion(None, "length"))
    assert connect(fake).ask(asks("q")) == [CachedAnswer("", True, 20, 3)]


def test_a_limit_on_calls_stops_and_loses_nothing(fake: FakeOpenAi) -> None:
    names = [str(i) for i in range(10)]
    with pytest.raises(WorkError, match=r"max_calls=4 is reached, after 4 calls and .* tokens"):
        connect(fake, max_calls=4).ask(asks(*names))
    assert len(fake.seen) == 4
    with pytest.raises(WorkError, match="max_calls=4"):
        connect(fake, max_calls=4).ask(asks(*names))
    last = connect(fake, max_calls=4)
    assert texts(last.ask(asks(*names))) == [f"said of {n}" for n in names]
    assert len(fake.seen) == 10
    assert (last.tally.kept, last.tally.calls) == (8, 2)


@pytest.mark.parametrize("fault", [completion(""), completion("half an ans", "length")])
def test_an_answer_of_a_bad_moment_is_not_kept(fake: FakeOpenAi, fault: Any) -> None:
    fake.answer = failing(1, (200, fault))
    endpoint = connect(fake)
    endpoint.ask(asks("x"))
    assert texts(endpoint.ask(asks("x"))) == ["at last"]
    assert texts(endpoint.ask(asks("x"))) == ["at last"]
    assert len(fake.seen) == 2


def test_a_refusal_may_cross_processes() -> None:
    refused = pickle.loads(pickle.dumps(attempts.RefusedError("here", 400, "no")))
    assert (refused.status, refused.message) == (400, "no")
    assert str(refused) == "here refused the request (status 400): no"


def test_a_limit_on_tokens(fake: FakeOpenAi) -> None:
    # 23 tokens a call: the third begins below 60, and the fourth does not.
    endpoint = connect(fake, max_total_tokens=60, max_concurrent=1)
    with pytest.raises(WorkError, match=r"max_total_tokens=60 is reached, after 3 calls and 69"):
        endpoint.ask(asks("1", "2", "3", "4"))
    untold = completion("x")
    del untold["usage"]
    fake.answer = lambda body: (200, untold)
    with pytest.raises(SettingsError, match="Limit its use by max_calls"):
        connect(fake, max_total_tokens=60).ask(asks("5"))
    assert texts(connect(fake).ask(asks("5"))) == ["x"]


def test_a_key_goes_along(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    connect(fake, api_key_env="A_KEY").ask(asks("q"))
    assert fake.keys == ["Bearer secret"]
    monkeypatch.delenv("A_KEY")
    with pytest.raises(SettingsError, match=r"A_KEY, which the judge's api_key_env names"):
        connect(fake, api_key_env="A_KEY")


def test_a_date_that_has_passed_is_no_wait() -> None:
    answer = httpx2.Response(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert attempts.retry_after(answer) == 0.0


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(ValidationError, match="Write it whole"):
        EndpointSettings(base_url="localhost:8000")
    with pytest.raises(ValidationError, match="Keep one"):
        EndpointSettings(principles=["be kind"], principles_file="p.yaml")


def test_how_an_endpoint_is_reached_does_not_identify_work() -> None:
    judge = {"base_url": "http://h/v1", "model": "m", "max_calls": 3, "timeout": 1.0}
    assert deciding({"rewards": [judge, {"kind": "length", "timeout": 1}]}) == {
        "rewards": [{"base_url": "http://h/v1", "model": "m"}, {"kind": "length", "timeout": 1}]
    }
