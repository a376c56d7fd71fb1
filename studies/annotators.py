"""Many annotators at once on the annotation page: is every acknowledged vote in the store once?

    python studies/annotators.py --annotators 200 --seconds 60
    python studies/annotators.py --store postgresql+psycopg://user@host/empty_database

Fills a store, invites the annotators, and starts `accord annotate` in a process of its own. Each
annotator enters by a token, and then asks for items and answers them as fast as the server allows,
with a pause of `--pause` seconds on average. One answer in ten is sent twice, as after a lost
connection, and one item in twenty is left open without a word, as by someone who walks away; such
leases end after `--lease` seconds. Afterwards the store is compared with what was acknowledged:

- every acknowledged vote is there exactly once, and nothing else but what was on its way at the
  end;
- no item was ever open or voted for more annotators than the overlap, by the times at which the
  server's answers arrived, and none has more votes;
- the counter of each item equals the assignments that it counts;
- an item that was left open went to nobody else before its lease was over.

Prints a table in Markdown with the latencies, writes summary.json, and fails where anything
differs.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from accord.annotate.start import invite_person
from accord.compare.store.connection import transaction
from accord.compare.store.people import invite
from accord.compare.store.queue_schema import ASSIGNMENTS, ITEMS
from accord.compare.store.store import PreferenceStore
from accord.records import Response
from accord.runs import write_json_atomic

TWICE, LEFT = 0.1, 0.05  # shares of answers that are sent twice, and of items that are left open
OUTCOMES = ("left", "right", "tie", "both_bad")


@dataclass
class Log:
    """What the annotators saw. Times are monotonic seconds."""

    acknowledged: dict[str, int] = field(default_factory=dict)  # key → verdict
    item_of: dict[str, tuple[int, str]] = field(default_factory=dict)  # key → item, annotator
    sent: set[str] = field(default_factory=set)
    voted: dict[tuple[int, str], float] = field(default_factory=dict)  # item, annotator → when
    left: int = 0
    given: dict[int, list[tuple[str, float]]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    conflicts: int = 0
    retries: int = 0
    faults: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="accord-annotators-") as folder:
        path = options.store or str(Path(folder) / "prefs.db")
        tokens = fill(path, options.annotators, options.items)
        port = _free_port()
        server = subprocess.Popen(_command(path, port, options))
        try:
            _wait_for(port, server)
            log = asyncio.run(annotate(port, tokens, options))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
        with PreferenceStore.open(path, create=False) as store:
            faults = [*log.faults, *compare(store, log, options)]
    summary = summarise(log, options, faults)
    print(markdown(summary))
    for fault in faults[:20]:
        print(f"- {fault}")
    if options.output_dir:
        write_json_atomic(Path(options.output_dir) / "summary.json", summary)
    return 1 if faults else 0


def fill(path: str, annotators: int, items: int) -> dict[str, str]:
    """A store with a pair for each item; the token of each annotator."""
    with PreferenceStore.open(path) as store:
        store.add_responses(
            [
                Response(f"Prompt {i} of a study", f"The answer of {model} to {i}. " * 20, model)
                for i in range(items)
                for model in ("red", "blue")
            ]
        )
        invite_person(store, "owner", "owner")
        with transaction(store.engine, store.path, writes=True) as connection:
            names = [f"person {i}" for i in range(annotators)]
            return {name: invite(connection, name, "annotator") for name in names}


async def annotate(port: int, tokens: dict[str, str], options: argparse.Namespace) -> Log:
    """All annotators at work until the time is up."""
    log = Log()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits
    ) as client:
        cookies = await asyncio.gather(*(enter(client, token) for token in tokens.values()))
        end = time.monotonic() + options.seconds
        await asyncio.gather(
            *(
                work(client, name, cookie, log, end, options)
                for name, cookie in zip(tokens, cookies, strict=True)
            )
        )
    return log


async def enter(client: httpx2.AsyncClient, token: str) -> str:
    answer = await client.post("/api/enter", json={"token": token})
    answer.raise_for_status()
    return answer.headers["set-cookie"].partition(";")[0]


async def work(
    client: httpx2.AsyncClient,
    name: str,
    cookie: str,
    log: Log,
    end: float,
    options: argparse.Namespace,
) -> None:
    """One annotator. A fault ends the study with a sentence, and not with a traceback."""
    rng = random.Random(f"{options.seed} {name}")
    client.cookies.clear()
    try:
        while time.monotonic() < end:
            shown = await _timed(client, log, "next", cookie, {})
            item = shown.json()["item"]
            if item is None:
                await asyncio.sleep(0.5)
                continue
            log.given[item].append((name, time.monotonic()))
            await asyncio.sleep(rng.expovariate(1 / options.pause) if options.pause else 0)
            if rng.random() < LEFT:
                log.left += 1
                await asyncio.sleep(options.lease * 1.5)  # someone else has it by now
                continue
            await _answer(client, log, name, cookie, item, rng)
    except Exception as error:
        log.faults.append(f"{name}: {type(error).__name__}: {error}")


async def _answer(
    client: httpx2.AsyncClient, log: Log, name: str, cookie: str, item: int, rng: random.Random
) -> None:
    key = secrets.token_hex(16)
    sent = {"key": key, "item": item, "action": "vote", "outcome": rng.choice(OUTCOMES)}
    body = {**sent, "view": "rendered", "seconds": 3.0}
    log.sent.add(key)
    log.item_of[key] = (item, name)
    verdicts = set()
    for _ in range(2 if rng.random() < TWICE else 1):
        answer = await _timed(client, log, "answer", cookie, body)
        if answer.status_code == 409:
            log.conflicts += 1
            return
        verdicts.add(answer.json()["verdict"])
    if len(verdicts) != 1:
        log.faults.append(f"key {key} was acknowledged as verdicts {verdicts}")
    log.acknowledged[key] = verdicts.pop()
    log.voted[item, name] = time.monotonic()


async def _timed(
    client: httpx2.AsyncClient, log: Log, what: str, cookie: str, body: dict[str, Any]
) -> httpx2.Response:
    begin = time.monotonic()
    while True:
        try:
            answer = await client.post(f"/api/{what}", json=body, headers={"cookie": cookie})
            break
        except httpx2.TransportError:  # as the page does, which sends an answer until it is stored
            log.retries += 1
            await asyncio.sleep(0.5)
    log.seconds[what].append(time.monotonic() - begin)
    if answer.status_code not in (200, 409):
        answer.raise_for_status()
    return answer


def compare(store: PreferenceStore, log: Log, options: argparse.Namespace) -> list[str]:
    """What differs between the store and what was acknowledged."""
    faults = []
    verdicts = store.verdicts(history=True)
    times = Counter(verdict.key for verdict in verdicts)
    by_key = {verdict.key: verdict for verdict in verdicts}
    for key, id_ in log.acknowledged.items():
        if times[key] != 1 or by_key[key].id != id_:
            faults.append(f"key {key}, acknowledged as {id_}, is in the store {times[key]} times")
        elif by_key[key].annotator != log.item_of[key][1]:
            faults.append(f"key {key} is by {by_key[key].annotator}, not {log.item_of[key][1]}")
    faults += [f"key {key} was never sent" for key in times if key not in log.sent]
    extra = len(set(times) - set(log.acknowledged))
    if extra > options.annotators:
        faults.append(f"{extra} votes in the store were not acknowledged")
    with store.engine.connect() as connection:
        states = defaultdict(list)
        for row in connection.execute(sa.select(ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.state)):
            states[row.item_id].append(row.state)
        for row in connection.execute(sa.select(ITEMS.c.id, ITEMS.c.taken)):
            taking = sum(state in ("open", "voted") for state in states[row.id])
            if row.taken != taking:
                faults.append(f"item {row.id} counts {row.taken} assignments and has {taking}")
            if taking > options.overlap:
                faults.append(f"item {row.id} has {taking} people for {options.overlap} votes")
    return faults + _broken_leases(log, options)


def _broken_leases(log: Log, options: argparse.Namespace) -> list[str]:
    """Items that went to someone while as many people had them as votes are needed.

    An annotator has an item for the lease from when it was given, and for good from when the vote
    was acknowledged. The times are those at which the server's answers arrived, so a lease is taken
    to be shorter by the worst latency. (A server that answers later than a lease ends passes here;
    the counts in the store are compared all the same.)
    """
    slack = max((max(times) for times in log.seconds.values()), default=0.0)
    faults = []
    for item, given in log.given.items():
        for name, at in given:
            having = {
                other
                for other, earlier in given
                if other != name
                and earlier < at
                and (
                    at < earlier + options.lease - slack
                    or log.voted.get((item, other), math.inf) <= at
                )
            }
            if len(having) >= options.overlap:
                faults.append(f"item {item} went to {name} while {len(having)} had it")
    return faults


def summarise(log: Log, options: argparse.Namespace, faults: Sequence[str]) -> dict[str, Any]:
    database = "SQLite" if not options.store else options.store.partition(":")[0]
    return {
        "database": database,
        "annotators": options.annotators,
        "seconds": options.seconds,
        "overlap": options.overlap,
        "items": options.items,
        "acknowledged": len(log.acknowledged),
        "votes_per_second": len(log.acknowledged) / options.seconds,
        "left_open": log.left,
        "refused_late": log.conflicts,
        "connections_lost": log.retries,
        "latency": {
            what: {
                "median": statistics.median(times),
                "p99": sorted(times)[int(len(times) * 0.99)],
                "worst": max(times),
            }
            for what, times in sorted(log.seconds.items())
        },
        "faults": list(faults),
        "cores": os.cpu_count(),
    }


def markdown(summary: dict[str, Any]) -> str:
    latency = summary["latency"]
    rows = [
        f"| {name} | {value} |"
        for name, value in {
            "database": summary["database"],
            "annotators at once": summary["annotators"],
            "seconds": summary["seconds"],
            "votes acknowledged": f"{summary['acknowledged']:,}",
            "votes per second": f"{summary['votes_per_second']:.0f}",
            "items left open, late answers refused": f"{summary['left_open']}, "
            f"{summary['refused_late']}",
            **{
                f"{what}: median, 99%, worst": ", ".join(
                    f"{1000 * latency[what][each]:.0f} ms" for each in ("median", "p99", "worst")
                )
                for what in latency
            },
            "lost, doubled or beyond the overlap": len(summary["faults"]),
        }.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])


def _command(path: str, port: int, options: argparse.Namespace) -> list[str]:
    settings = [f"overlap={options.overlap}", f"lease_minutes={options.lease / 60}"]
    program = "from accord.cli import main; main()"
    start = [sys.executable, "-c", program, "annotate", path, "--tokens", "--port", str(port)]
    return [*start, *settings]


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            httpx2.get(f"http://127.0.0.1:{port}/static/icon.svg")
            return
        except httpx2.TransportError:
            if server.poll() is not None:
                raise SystemExit("The server did not start.") from None
            time.sleep(0.1)
    raise SystemExit("The server does not answer.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds to judge an item")
    parser.add_argument("--lease", type=float, default=10.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", help="URL of an empty database; by default SQLite in a file")
    parser.add_argument("--output-dir", help="folder for summary.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
