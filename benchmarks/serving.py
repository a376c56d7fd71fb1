"""Tokens a second of `accord serve` beside `transformers serve` and vLLM's server.

    python benchmarks/serving.py --model SMOLLM2 --transformers-python PYTHON --turns 5

All serve the same model in bf16 on the same cores, transformers with its continuous batching
(`--continuous-batching`). In each turn one server after the other answers the same load: greedy
chats of many clients at once, not streamed. No turn asks what an earlier one asked, so a server
that stores prompts reuses their template alone. A ratio is the median of the turns' ratios, of
wall-clock time and of the servers' processor time; a busy machine disturbs the latter less. vLLM is
included if ACCORD_VLLM_PYTHON names a Python that has it. PYTHON is that of an environment with
transformers' serving extra.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.chat_servers import ChatServer
from workers.vllm_server import vllm_python

TOPICS = "fish bread rivers chess winter music trains stars paper bees wool clocks".split()
FORMS = (
    "Tell me something about {}.",
    "Write a short story about {} that a child would like to hear before going to sleep.",
    "List five facts about {} and say for each of them how sure you are.",
    "What should I know about {}? I have never read anything about it, so begin at the beginning, "
    "use plain words, and give an example for everything that you say.",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--transformers-python", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64, help="in a turn")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="turns before those that count")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    with ExitStack() as stack:
        servers = [stack.enter_context(closing(server)) for server in start_servers(args)]
        for server in servers:
            server.wait_until_ready()
        turns: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        for turn in range(args.warmup + args.turns):
            for server in servers:
                figures = asyncio.run(run_load(server, args, turn))
                if turn >= args.warmup:
                    turns[server.name].append(figures)
    Console().print(make_table(turns, args))
    write_json(args.json, {"machine": facts, "turns": turns})


def start_servers(args: argparse.Namespace) -> list[ChatServer]:
    model = str(args.model.resolve())
    accord = [sys.executable, "-m", "accord", "serve", model, "--port", "PORT"]
    servers = [ChatServer("accord", [*accord, "--precision", "bf16"], model)]
    if args.transformers_python is not None:
        python = str(args.transformers_python)
        command = [python, "-m", "transformers.cli.transformers", "serve", model]
        command += ["--host", "127.0.0.1", "--port", "PORT", "--continuous-batching"]
        command += ["--dtype", "bfloat16", "--device", "cpu"]
        # Otherwise it takes nine tenths of the memory that is free when it starts.
        command += ["--cb-max-memory-percent", "0.2"]
        servers.append(ChatServer("transformers", command, model, PYTHONPATH=""))
    vllm = vllm_python()
    if vllm is not None:
        command = [str(vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--host", "127.0.0.1", "--port", "PORT", "--dtype", "bfloat16"]
        command += ["--enforce-eager", "--max-model-len", "2048"]
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        servers.append(ChatServer("vllm", command, model, PYTHONPATH="", **environment))
    return servers


async def run_load(server: ChatServer, args: argparse.Namespace, turn: int) -> dict[str, float]:
    """One turn: tokens, seconds and processor seconds."""
    pending = list(enumerate(make_questions(args.requests, turn)))
    tokens = 0

    async def ask(client: httpx2.AsyncClient) -> None:
        nonlocal tokens
        while pending:
            i, question = pending.pop()
            body: dict[str, Any] = {
                "model": server.model,
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": args.tokens - i % 8,  # so that they do not all end together
            }
            response = await client.post("/v1/chat/completions", json=body)
            response.raise_for_status()
            tokens += response.json()["usage"]["completion_tokens"]

    limits = httpx2.Limits(max_connections=None)
    before = server.processor_seconds
    start = time.perf_counter()
    async with httpx2.AsyncClient(
        base_url=server.url, timeout=1800, trust_env=False, limits=limits
    ) as client:
        await asyncio.gather(*(ask(client) for _ in range(args.clients)))
    seconds = time.perf_counter() - start
    used = server.processor_seconds - before
    return {"tokens": tokens, "seconds": seconds, "processor_seconds": used}


def make_questions(count: int, turn: int) -> list[str]:
    """Questions that differ from those of every other turn, up to 1,728 in all."""
    questions = []
    for n in range(turn * count, (turn + 1) * count):
        first, second, third = (TOPICS[n // 12**k % 12] for k in range(3))
        questions.append(FORMS[n % len(FORMS)].format(f"{first}, {second} and {third}"))
    return questions


def make_table(turns: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> Table:
    title = f"{args.clients} clients, {args.requests} requests, up to {args.tokens} tokens, bf16"
    table = Table(title=title)
    for column in ("server", "tokens/s", "ratio", "tokens per processor second", "ratio"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, figures in turns.items():
        cells = [name]
        for key in ("seconds", "processor_seconds"):
            rates = [f["tokens"] / f[key] for f in figures]
            ours = [f["tokens"] / f[key] for f in turns["accord"]]
            ratios = [a / b for a, b in zip(ours, rates, strict=True)]
            cells += [f"{statistics.median(rates):.1f}", f"{statistics.median(ratios):.2f}"]
        table.add_row(*cells)
    table.caption = "ratio: accord's rate over the server's"
    return table


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
