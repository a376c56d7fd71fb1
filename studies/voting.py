"""Annotators at work on the annotation page over HTTP, and what they saw of it.

Each of them asks for an item, as the page does, thinks for a while, and sends an answer under a key
of its own until the server has answered. One answer in ten is sent twice, as
after a lost connection. One item in twenty is left open without a word until its lease is over;
half of those who left come back then and answer all the same.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

TWICE, LEAVES, RETURNS = 0.1, 0.05, 0.5  # shares of answers, of items, and of those who leave
OUTCOMES = ("left", "right", "tie", "both_bad")
IDLE = 2.0  # seconds between two questions of someone for whom nothing is left


@dataclass(frozen=True, slots=True)
class Pace:
    """When it ends (monotonic seconds), the mean seconds of thought, and those of a lease."""

    end: float
    pause: float
    lease: float
    seed: int


@dataclass(frozen=True, slots=True)
class Given:
    """An item that was given to someone: asked for and received at these monotonic seconds."""

    item: int
    name: str
    asked: float
    received: float


@dataclass
class Log:
    """What the annotators saw. Times are monotonic seconds."""

    acknowledged: dict[str, int] = field(default_factory=dict)  # key → verdict
    item_of: dict[str, tuple[int, str]] = field(default_factory=dict)  # key → item, annotator
    voted: dict[tuple[int, str], float] = field(default_factory=dict)  # item, annotator → when
    given: list[Given] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    left: int = 0
    late_stored: int = 0
    late_refused: int = 0
    retries: int = 0
    faults: list[str] = field(default_factory=list)


async def annotate(port: int, tokens: Mapping[str, str], pace: Pace, log: Log) -> None:
    """All annotators at work until the time is up."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits
    ) as client:
        cookies = await asyncio.gather(*(_enter(client, token) for token in tokens.values()))
        client.cookies.clear()
        people = [
            Annotator(client, name, cookie, log, pace)
            for name, cookie in zip(tokens, cookies, strict=True)
        ]
        await asyncio.gather(*(person.work() for person in people))


@dataclass(frozen=True, slots=True)
class Annotator:
    """One person with a session."""

    client: httpx2.AsyncClient
    name: str
    cookie: str
    log: Log
    pace: Pace

    async def work(self) -> None:
        """Judge items until the end. A fault ends it with a sentence, and not with a traceback."""
        rng = random.Random(f"{self.pace.seed} {self.name}")
        try:
            while time.monotonic() < self.pace.end:
                asked = time.monotonic()
                shown = await self.post("next", {})
                item = shown.json()["item"]
                if item is None:
                    await asyncio.sleep(IDLE)
                    continue
                given = Given(item, self.name, asked, time.monotonic())
                self.log.given.append(given)
                await asyncio.sleep(rng.expovariate(1 / self.pace.pause) if self.pace.pause else 0)
                if rng.random() < LEAVES:
                    self.log.left += 1
                    await asyncio.sleep(self.pace.lease * 1.5)  # someone else has it by now
                    if rng.random() > RETURNS:
                        continue
                await self.answer(given, rng)
        except Exception as error:
            self.log.faults.append(f"{self.name}: {type(error).__name__}: {error}")

    async def answer(self, given: Given, rng: random.Random) -> None:
        key = secrets.token_hex(16)
        sent = {"key": key, "item": given.item, "action": "vote", "outcome": rng.choice(OUTCOMES)}
        body = {**sent, "view": "rendered", "seconds": 3.0}
        log = self.log
        log.item_of[key] = (given.item, self.name)
        verdicts = set()
        for _ in range(2 if rng.random() < TWICE else 1):
            answer = await self.post("answer", body)
            now = time.monotonic()
            if answer.status_code == 409:
                log.late_refused += 1
                if now < given.asked + self.pace.lease:
                    log.faults.append(f"{self.name} had item {given.item}, and was refused")
                return
            verdicts.add(answer.json()["verdict"])
        if len(verdicts) != 1:
            log.faults.append(f"key {key} was acknowledged as verdicts {verdicts}")
        log.acknowledged[key] = verdicts.pop()
        log.voted[given.item, self.name] = now
        log.late_stored += now > given.received + self.pace.lease

    async def post(self, what: str, body: Mapping[str, Any]) -> httpx2.Response:
        """Send until the server answers, as the page does; how long that took is logged where the
        first attempt was answered."""
        headers = {"cookie": self.cookie}
        first = True
        while True:
            begin = time.monotonic()
            try:
                answer = await self.client.post(f"/api/{what}", json=body, headers=headers)
                break
            except httpx2.TransportError:
                first = False
                self.log.retries += 1
                await asyncio.sleep(0.5)
        if first:
            self.log.seconds[what].append(time.monotonic() - begin)
        if answer.status_code != 409:
            answer.raise_for_status()
        return answer


async def _enter(client: httpx2.AsyncClient, token: str) -> str:
    answer = await client.post("/api/enter", json={"token": token})
    answer.raise_for_status()
    return answer.headers["set-cookie"].partition(";")[0]
