"""The models that the study `real` saved, as `transformers serve` and vLLM serve them.

    python studies/real_serving.py --run runs/real/run --servers-python PYTHON

PYTHON is that of an environment with vLLM and transformers' serving extra. The DPO stage's adapter
is merged (`accord merge`) and served by both; vLLM also serves the adapter itself on its base. The
greedy answers to held-out prompts must be those of `accord sample`, all in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from real_checks import NEW_TOKENS, read_pairs

import accord
from accord.records import prompt_json
from accord.runs import write_json_atomic

ROOT = Path(__file__).resolve().parent.parent
NUM_PROMPTS = 16
SECONDS_TO_START = 300.0
REQUEST_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--servers-python", type=Path, required=True)
    options = parser.parse_args()
    run, python = options.run.resolve(), options.servers_python.absolute()
    adapter = run / "dpo" / "model"
    merged = merge(adapter, run.parent / "merged")
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    prompts = read_prompts(run / "data" / "test.jsonl", str(merged))
    expected = greedy(merged, prompts)
    checks = []
    with transformers_server(python, merged) as url:
        checks.append(compare("transformers serve, merged", url, str(merged), prompts, expected))
    with vllm_server(python, merged) as url:
        checks.append(compare("vLLM, merged", url, str(merged), prompts, expected))
    lora = ("--enable-lora", "--max-lora-rank", "64", "--lora-modules", f"dpo={adapter}")
    with vllm_server(python, Path(base), *lora) as url:
        checks.append(compare("vLLM, adapter", url, "dpo", prompts, greedy(adapter, prompts)))
    write_json_atomic(run.parent / "serving.json", {"checks": checks})
    for check in checks:
        print(f"| {check['server']} | {check['equal']} of {check['prompts']} answers equal |")


def merge(adapter: Path, folder: Path) -> Path:
    """The adapter's model as one folder, by the command."""
    if not folder.is_dir():
        command = [
            sys.executable,
            "-m",
            "accord",
            "merge",
            str(adapter),
            "--output-dir",
            str(folder),
        ]
        subprocess.run([*command, "--dtype", "fp32"], check=True)
    return folder


def read_prompts(path: Path, model: str) -> list[Any]:
    return [prompt_json(pair.prompt) for pair in read_pairs(path, model, NUM_PROMPTS)]


def greedy(model: Path, prompts: Sequence[Any]) -> list[str]:
    answers = accord.sample(
        str(model), prompts, max_new_tokens=NEW_TOKENS, temperature=0, device="cpu"
    )
    return [answer.responses[0] for answer in answers]


def compare(
    server: str, url: str, model: str, prompts: Sequence[Any], expected: Sequence[str]
) -> dict[str, Any]:
    answers = []
    for prompt in prompts:
        body = {"model": model, "messages": prompt, "temperature": 0, "max_tokens": NEW_TOKENS}
        reply = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=REQUEST_SECONDS)
        reply.raise_for_status()
        answers.append(reply.json()["choices"][0]["message"]["content"])
    differences = [
        {"server": answer, "accord": own}
        for answer, own in zip(answers, expected, strict=True)
        if answer.strip() != own.strip()  # servers strip the ends of texts
    ]
    return {
        "server": server,
        "prompts": len(prompts),
        "equal": len(prompts) - len(differences),
        "differences": differences,
    }


@contextmanager
def transformers_server(python: Path, model: Path) -> Iterator[str]:
    port = free_port()
    command = [str(python.parent / "transformers"), "serve", str(model), "--port", str(port)]
    with server([*command, "--host", "127.0.0.1", "--dtype", "float32", "--device", "cpu"], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def vllm_server(python: Path, model: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    with server([*command, "--enforce-eager", "--max-model-len", "1024", *options], port):
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[None]:
    """A server that has come up; raises RuntimeError with its last words where it has not."""
    own = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    environment = {**os.environ, "PYTHONPATH": "", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **own}
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not is_healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{log.read()[-3000:]}")
            time.sleep(1.0)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def is_healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx2.HTTPError:
        return False


if __name__ == "__main__":
    main()
