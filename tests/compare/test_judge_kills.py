"""A judge killed at any moment and started again: no answer that was saved is paid for twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from accord.compare.judges.endpoint import Endpoint
from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import BothOrders, Candidates
from accord.settings.endpoint import EndpointSettings
from tests.fake_openai import FakeOpenAi, Reply, completion, judged_texts

MAX_CONCURRENT = 4
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def connect(url: str) -> AiJudge:
    settings = EndpointSettings(base_url=url, max_concurrent=MAX_CONCURRENT, attempts=2, retries=0)
    return AiJudge(settings, "m")


def pairs(count: int) -> list[Candidates]:
    return [Candidates("p", (f"first {i}", f"second {i}"), (True, True)) for i in range(count)]


def judge_in_a_process(url: str, cache: str, count: int) -> None:
    os.environ["ACCORD_CACHE"] = cache
    connect(url).both_orders(pairs(count))


class Ledger:
    """A server's answers, each with a name of its own: some without a verdict, some cut."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: Any) -> Reply:
        texts = judged_texts(body)
        name = f"{texts['response-A']}, {texts['response-B']}"
        name += ", again" if "Attempt 2" in body["messages"][0]["content"] else ""
        number = int(texts["response-A"].split()[-1])
        time.sleep(0.002)
        with self.lock:
            self.answered[name] += 1
        verdict = "" if number % 5 == 0 else "A" if "first" in texts["response-A"] else "B"
        text = json.dumps({"reason": name, "verdict": verdict})
        return 200, completion(text, "length" if number % 7 == 0 else "stop")

    def wait_for(self, more: int) -> None:
        """Wait until so many more answers have been given."""
        start = sum(self.answered.values())
        while sum(self.answered.values()) < start + more:
            time.sleep(0.001)


def saved_names(path: Path) -> set[str]:
    """The answers in the cache's whole lines."""
    lines = path.read_text().splitlines() if path.is_file() else []
    names = set()
    for line in lines:
        try:
            names.add(json.loads(json.loads(line)["text"])["reason"])
        except ValueError:
            continue  # the line that was being written
    return names


@pytest.mark.parametrize(
    ("kills", "count"), [(5, 60), pytest.param(60, 600, marks=pytest.mark.slow)]
)
def test_killed_at_any_moment(fake: FakeOpenAi, tmp_path: Path, kills: int, count: int) -> None:
    generator = random.Random(kills)
    fake.answer = ledger = Ledger()
    path = Endpoint(EndpointSettings(base_url=fake.url), "m").cache.path
    saved: dict[str, int] = {}  # the times that each had been answered when it was saved
    for _ in range(kills):
        process = PROCESSES.Process(
            target=judge_in_a_process, args=(fake.url, str(tmp_path / "cache"), count)
        )
        process.start()
        ledger.wait_for(generator.randrange(1, 2 * count // kills))
        time.sleep(generator.random() * 0.004)
        process.kill()
        process.join()
        assert process.exitcode == -9
        saved |= {n: ledger.answered[n] for n in saved_names(path) - saved.keys()}
    assert len(saved) > count / 2  # of some 2.6 · count
    last = connect(fake.url)
    results: list[BothOrders] = last.both_orders(pairs(count))
    # A saved answer was never asked for again; one on its way at a kill is lost, and a judge has
    # at most MAX_CONCURRENT on their way.
    assert {name: ledger.answered[name] for name in saved} == saved
    twice = sum(ledger.answered.values()) - len(ledger.answered)
    assert twice <= kills * MAX_CONCURRENT
    assert last.usage()["calls"] <= len(ledger.answered) - len(saved)
    for number, both in enumerate(results):
        assert (both.missing is None) == (number % 5 != 0 and number % 7 != 0)
        assert both.missing is not None or both.forward == both.backward == 0
    again = connect(fake.url)
    assert again.both_orders(pairs(count)) == results
    assert again.usage()["calls"] == 0
