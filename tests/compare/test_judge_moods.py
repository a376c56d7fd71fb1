"""None of a server's moods counts as a verdict that it is not, and no answer is paid for twice."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from accord.compare.judges import endpoint as judge_endpoint
from accord.compare.judges.completions import read_completion
from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import Candidates, NoVerdict
from accord.compare.judges.reading import PAIR_VERDICTS, parse_verdict
from accord.errors import WorkError
from accord.settings.endpoint import EndpointSettings
from tests.compare.endpoint import make_requests, texts
from tests.compare.moods import ANSWERS, Answer, MoodyServer, random_answer
from tests.fake_openai import FakeOpenAi, completion

INDEX = {"A": 0, "B": 1, "tie": None}


def check_reading(answer: Answer) -> bool:
    """Whether the verdict of an answer is read; asserts that none but its own is."""
    status, content = answer.reply()[:2]
    read = read_completion(httpx2.Response(status, text=json.dumps(content)))
    given = None
    if not read.cut and read.withheld is None:
        given = parse_verdict(read.text, "verdict", PAIR_VERDICTS)
    if given is not None:
        assert answer.meant is not None, answer
        assert given == (INDEX[answer.meant],), answer
    elif answer.sure:
        assert answer.meant is None, answer
    return given is not None


@pytest.mark.parametrize("seed", range(len(ANSWERS)))
def test_a_mood_gives_the_verdict_that_it_means_or_none(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(60):
        meant, draft = generator.sample(["A", "B", "tie"], k=2)
        check_reading(ANSWERS[seed](meant, draft, generator))


def test_a_mixture_of_moods() -> None:
    generator = random.Random(0)
    read = sum(check_reading(random_answer(generator)) for _ in range(2000))
    assert 0.4 < read / 2000 < 0.8  # 9 of 17 moods give a verdict


def ask(judge: AiJudge, count: int) -> dict[tuple[str, str], Any]:
    """What a judge reads, by the responses in the order shown."""
    pairs = [Candidates("p", (f"first {i}", f"second {i}"), (True, True)) for i in range(count)]
    read: dict[tuple[str, str], Any] = {}
    for pair, both in zip(pairs, judge.both_orders(pairs), strict=True):
        first, second = pair.responses
        backward = 1 - both.backward if isinstance(both.backward, int) else both.backward
        read |= {(first, second): both.forward, (second, first): backward}
        if both.missing is None:
            assert both.undecided == (both.forward != both.backward)
    return read


@pytest.mark.parametrize("seed", range(3))
def test_a_moody_server_over_many_pairs(fake: FakeOpenAi, seed: int) -> None:
    fake.answer = server = MoodyServer(seed)
    settings = EndpointSettings(base_url=fake.url, attempts=2)
    read = ask(AiJudge(settings, "m"), 60)
    assert read.keys() == server.given.keys()
    for shown, verdict in read.items():
        answer = server.given[shown]
        if isinstance(verdict, NoVerdict):
            assert answer.meant is None or not answer.sure
        else:
            assert answer.meant is not None
            assert verdict == INDEX[answer.meant]
    assert 60 < sum(not isinstance(verdict, NoVerdict) for verdict in read.values()) < 118
    assert sum(server.faults.values()) > 10
    # Whatever it answered was paid for, with a verdict or without, and is never asked for again.
    sent = len(fake.requests)
    restarted = AiJudge(settings, "m")
    assert ask(restarted, 60) == read
    assert len(fake.requests) == sent
    assert restarted.usage()["calls"] == 0
    assert set(server.times.values()) == {1}


def receive_request(connection: socket.socket) -> None:
    """Read a whole request: a connection that is closed before loses its answer too."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, body = received.split(b"\r\n\r\n", 1)
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length is not None
    while len(body) < int(length[1]):
        body += connection.recv(65536)


@contextmanager
def dripping(head: bytes, piece: bytes, wait: float) -> Iterator[str]:
    """A server whose answer has a beginning and no end: a piece again and again; it hangs up where
    the piece is empty."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                receive_request(connection)
                connection.sendall(head)
                while piece and not ended.wait(wait):
                    connection.sendall(piece)
            except OSError:
                pass  # the client has gone

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection = listener.accept()[0]
                except OSError:
                    continue
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        ended.set()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("piece", "wait", "fault"),
    [
        (b"1\r\n \r\n", 0.01, r"no answer in time \(0\.3 s\)\. Raise timeout"),
        (b"4000\r\n" + b" " * 0x4000 + b"\r\n", 0.0, r"without an end \([23]\d\d,\d\d\d b"),
    ],
)
def test_an_answer_that_does_not_end(
    fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch, piece: bytes, wait: float, fault: str
) -> None:
    if not wait:
        monkeypatch.setattr(judge_endpoint, "MAX_BYTES", 2**18)
    timeout = 0.3 if wait else 30.0
    with dripping(HEAD, piece, wait) as url:
        settings = EndpointSettings(base_url=url, timeout=timeout, retries=0)
        with pytest.raises(WorkError, match=fault):
            judge_endpoint.Endpoint(settings, "m").complete(make_requests("q"))


def test_a_body_that_ends_before_its_length(fake: FakeOpenAi) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
    with dripping(head + json.dumps(completion("Verdict: A")).encode(), b"", 0.0) as url:
        settings = EndpointSettings(base_url=url, retries=1)
        with pytest.raises(WorkError, match="in 2 attempts: the connection broke"):
            judge_endpoint.Endpoint(settings, "m").complete(make_requests("q"))


def test_a_compressed_answer(fake: FakeOpenAi) -> None:
    body = gzip.compress(json.dumps(completion("Verdict: A")).encode())
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    with dripping(head + body, b"", 0.0) as url:
        endpoint = judge_endpoint.Endpoint(EndpointSettings(base_url=url), "m")
        assert texts(endpoint.complete(make_requests("q"))) == ["Verdict: A"]
