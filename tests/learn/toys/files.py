"""Rows in files, as users have them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = "cat dog sea house door mat answer word old far".split()


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    """Write one row a line; returns the path as settings take it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def user_says(text: str) -> list[dict[str, str]]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": text}]


def write_yes_no_pairs(path: Path, count: int, seed: int) -> str:
    """Pairs in which the response that says yes is preferred; everything else is random."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        same = " ".join(rng.choices(WORDS, k=rng.randint(1, 3)))
        prompt = user_says(" ".join(rng.choices(WORDS, k=2)))
        rows.append({"prompt": prompt, "chosen": f"{same} yes", "rejected": f"{same} no"})
    return write_jsonl(path, rows)
