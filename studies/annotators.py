"""Many annotators at once on the annotation page: is every acknowledged vote in the store once?

    python studies/annotators.py --annotators 200 --seconds 60
    python studies/annotators.py --store postgresql+psycopg://user@host/empty_database
    python studies/annotators.py --items 500 --overlap 3 --kills 2

Fills a store, invites the annotators, and starts `accord annotate` in a process of its own. Each
annotator enters by a token, and then works as `voting` describes; `--kills` of the server by
SIGKILL are spread over the time, each followed by a start on the same port. Afterwards the store is
compared with what was acknowledged:

- every acknowledged vote is there exactly once, by the right person, and nothing else;
- no item was ever open or voted for more annotators than the overlap, by the times at which the
  server's answers arrived, and none has more votes;
- the counter of each item equals the assignments that it counts;
- an item that was left open went to nobody else before its lease was over, and nobody was refused
  whose lease was not over.

Prints a table in Markdown with the latencies, writes summary.json, and fails where anything
differs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from vote_checks import broken_leases, count_full, wrong_counts, wrong_votes
from voting import Log, Pace, annotate

from accord.annotate.start import invite_person
from accord.compare.store.connection import transaction
from accord.compare.store.people import invite
from accord.compare.store.store import PreferenceStore
from accord.records import Response
from accord.runs import write_json_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    log = Log()
    with tempfile.TemporaryDirectory(prefix="accord-annotators-") as folder:
        path = options.store or str(Path(folder) / "prefs.db")
        tokens = fill(path, options.annotators, options.items)
        server = Server(path, options)
        try:
            server.start()
            asyncio.run(_study(server, tokens, options, log))
        finally:
            server.end(signal.SIGINT)
        with PreferenceStore.open(path, create=False) as store:
            full, items = count_full(store, options.overlap)
            faults = [
                *log.faults,
                *wrong_votes(store, log),
                *wrong_counts(store, options.overlap),
                *broken_leases(log, options.lease, options.overlap),
            ]
    summary = summarise(log, options, faults) | {"full_items": full, "items": items}
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


@dataclass
class Server:
    """`accord annotate` on a store, in a process of its own, always on the same port."""

    path: str
    options: argparse.Namespace
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or _free_port()
        settings = [
            f"overlap={self.options.overlap}",
            f"lease_minutes={self.options.lease / 60}",
        ]
        program = "from accord.cli import main; main()"
        command = [sys.executable, "-c", program, "annotate", self.path, "--tokens", *settings]
        self.process = subprocess.Popen([*command, "--port", str(self.port)])
        for _ in range(600):
            try:
                httpx2.get(f"http://127.0.0.1:{self.port}/static/icon.svg")
                return
            except httpx2.TransportError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit("The server does not start.")

    def end(self, by: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(by)
            self.process.wait(30)


async def _study(
    server: Server, tokens: dict[str, str], options: argparse.Namespace, log: Log
) -> None:
    pace = Pace(time.monotonic() + options.seconds, options.pause, options.lease, options.seed)
    work = asyncio.create_task(annotate(server.port, tokens, pace, log))
    for _ in range(options.kills):
        await asyncio.sleep(options.seconds / (options.kills + 1))
        server.end(signal.SIGKILL)
        await asyncio.to_thread(server.start)
    await work


def summarise(log: Log, options: argparse.Namespace, faults: Sequence[str]) -> dict[str, Any]:
    return {
        "database": "SQLite" if not options.store else options.store.partition(":")[0],
        "annotators": options.annotators,
        "seconds": options.seconds,
        "pause": options.pause,
        "lease": options.lease,
        "overlap": options.overlap,
        "kills": options.kills,
        "acknowledged": len(log.acknowledged),
        "votes_per_second": len(log.acknowledged) / options.seconds,
        "left_open": log.left,
        "late_stored": log.late_stored,
        "late_refused": log.late_refused,
        "retries": log.retries,
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
        "machine": platform.machine(),
    }


def markdown(summary: dict[str, Any]) -> str:
    latency = summary["latency"]
    rows = {
        "database": summary["database"],
        "annotators at once": summary["annotators"],
        "seconds, of thought": f"{summary['seconds']}, {summary['pause']}",
        "votes acknowledged": f"{summary['acknowledged']:,}",
        "votes per second": f"{summary['votes_per_second']:.0f}",
        f"items with exactly {summary['overlap']} votes, of": f"{summary['full_items']:,}, "
        f"{summary['items']:,}",
        "items left open": summary["left_open"],
        "late answers stored, refused": f"{summary['late_stored']}, {summary['late_refused']}",
        "kills of the server, requests sent again": f"{summary['kills']}, {summary['retries']}",
        **{
            f"{what}: median, 99%, worst": ", ".join(
                f"{1000 * latency[what][each]:.0f} ms" for each in ("median", "p99", "worst")
            )
            for what in latency
        },
        "lost, doubled or beyond the overlap": len(summary["faults"]),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {rows[name]} |" for name in rows)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds to judge an item")
    parser.add_argument("--lease", type=float, default=10.0, help="seconds")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", help="URL of an empty database; by default SQLite in a file")
    parser.add_argument("--output-dir", help="folder for summary.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
