"""A worker's side of workers/lockstep.py: its arguments, and its results as lines of JSON.

A worker first sends how many threads it has. Then, for each line on its standard input, it takes a
step and sends what it measured. No accord in here: TRL's workers use it too.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ONLINE = ("grpo", "ppo", "ppo-shared", "ppo-lora")


def send(values: dict[str, Any]) -> None:
    """Send a result, on the standard output that the process started with."""
    print(json.dumps(values), file=sys.__stdout__, flush=True)


def redirect_prints() -> None:
    """What libraries print is not a result: it goes to standard error from now on."""
    sys.stdout = sys.stderr


def peak_memory_mib() -> float:
    """The most memory that this process has used: of the GPU where it uses one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given, so that a clock shows it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def offline_arguments(methods: Iterable[str]) -> argparse.Namespace:
    """A method, the folder of the workload, rows per step, and steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=list(methods))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def online_arguments() -> argparse.Namespace:
    """A method, the folder of the workload, episodes per iteration, responses per prompt, and
    tokens per response."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=ONLINE)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()
