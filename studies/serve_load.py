"""Many clients at once against `accord serve`: no answer is wrong, lost or mixed up.

    python studies/serve_load.py --model runs/dpo --clients 64 --seconds 60

Each client sends requests of all kinds, one after another: greedy and seeded, several candidates,
stop strings, streamed and whole, and some it hangs up on. Every answer must be the one that the
same request gets alone, before the load. The server's memory is read during the load and must not
grow between its first third and its last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from serving_process import ServingProcess

WORDS = "the cat sat on a mat and looked at door dog ran far away from old house sea".split()
KINDS = 40  # different requests
MAX_GROWTH = 1.05  # of memory, from the first third of the load to the last
ADDRESS = "/v1/chat/completions"


@dataclass
class Tally:
    """What came of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bodies = make_bodies(random.Random(options.seed))
    with ServingProcess(options.model) as server:
        tally = asyncio.run(run(server, bodies, options))
    print_tally(tally, options.seconds)
    sys.exit(1 if tally.wrong or tally.counts["failed"] or not is_flat(tally.memory) else 0)


def make_bodies(rng: random.Random) -> list[dict[str, Any]]:
    """Requests of all kinds."""
    bodies = []
    for i in range(KINDS):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 30)))
        body: dict[str, Any] = {
            "model": "served",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": rng.choice([1, 4, 16, 40]),
            "stream": i % 2 == 0,
        }
        if i % 3 == 0:
            body["temperature"] = 0
        else:
            body |= {"seed": i, "temperature": rng.choice([0.5, 1.0]), "top_p": 0.95}
        if i % 5 == 0:
            body["n"] = rng.randint(2, 4)
        if i % 7 == 0:
            body["stop"] = ["e", "th"]
        bodies.append(body)
    return bodies


async def run(
    server: ServingProcess, bodies: list[dict[str, Any]], options: argparse.Namespace
) -> Tally:
    tally = Tally()
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=server.url, timeout=300, trust_env=False, limits=limits
    ) as client:
        expected = [await ask(client, body) for body in bodies]
        end = time.monotonic() + options.seconds
        watch = asyncio.create_task(watch_memory(server, tally))
        clients = [
            converse(client, bodies, expected, tally, random.Random(i), end)
            for i in range(options.clients)
        ]
        await asyncio.gather(*clients)
        watch.cancel()
        left = await rows_left(client)
        if left:
            tally.wrong.append({"rows left": left})
    return tally


async def converse(
    client: httpx2.AsyncClient,
    bodies: list[dict[str, Any]],
    expected: list[list[tuple[str, str]]],
    tally: Tally,
    rng: random.Random,
    end: float,
) -> None:
    while time.monotonic() < end:
        i = rng.randrange(len(bodies))
        if rng.random() < 0.05:
            await hang_up(client, bodies[i])
            tally.counts["hung up"] += 1
            continue
        start = time.monotonic()
        try:
            answer = await ask(client, bodies[i])
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            tally.counts["failed"] += 1
            tally.wrong.append({"request": bodies[i], "error": repr(error)})
            continue
        tally.seconds.append(time.monotonic() - start)
        tally.counts["answered"] += 1
        if answer != expected[i]:
            tally.wrong.append({"request": bodies[i], "alone": expected[i], "here": answer})


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[tuple[str, str]]:
    """The text of each choice, and why it ended."""
    texts, reasons = [""] * body.get("n", 1), [""] * body.get("n", 1)
    if not body["stream"]:
        response = await client.post(ADDRESS, json=body)
        response.raise_for_status()
        for choice in response.json()["choices"]:
            texts[choice["index"]] = choice["message"]["content"]
            reasons[choice["index"]] = choice["finish_reason"]
        return list(zip(texts, reasons, strict=True))
    is_done = False
    async with client.stream("POST", ADDRESS, json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if not data or data == line:
                continue
            if data == "[DONE]":
                is_done = True
                continue
            for choice in json.loads(data)["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
                reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    if not is_done:
        raise ValueError("the stream ended without [DONE]")
    return list(zip(texts, reasons, strict=True))


async def hang_up(client: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", ADDRESS, json={**body, "stream": True}) as response:
        async for _ in response.aiter_lines():
            return


async def watch_memory(server: ServingProcess, tally: Tally) -> None:
    while True:
        tally.memory.append(server.memory)
        await asyncio.sleep(0.5)


async def rows_left(client: httpx2.AsyncClient) -> int:
    """The rows that still run a second after the last answer."""
    await asyncio.sleep(1.0)
    text = (await client.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return int(float(lines["accord_rows_running"]) + float(lines["accord_rows_waiting"]))


def is_flat(memory: list[int]) -> bool:
    third = max(1, len(memory) // 3)
    return max(memory[-third:]) <= MAX_GROWTH * max(memory[:third])


def print_tally(tally: Tally, seconds: float) -> None:
    third = max(1, len(tally.memory) // 3)
    first, last = max(tally.memory[:third]) / 2**20, max(tally.memory[-third:]) / 2**20
    print(f"{tally.counts['answered']} answers in {seconds:g} s; {dict(tally.counts)}")
    if tally.seconds:
        print(
            f"median {statistics.median(tally.seconds):.2f} s, longest {max(tally.seconds):.2f} s"
        )
    print(f"memory: {first:.0f} MiB in the first third, {last:.0f} MiB in the last")
    print(f"wrong, lost or mixed: {len(tally.wrong)}")
    for fault in tally.wrong[:5]:
        print(json.dumps(fault, ensure_ascii=False)[:600])


if __name__ == "__main__":
    main()
