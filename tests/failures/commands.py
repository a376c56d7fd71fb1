"""What the commands that fail have in common: their rows and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fails = Callable[..., str]
GOOD = {"prompt": "a", "completion": "b"}
SFT = ("train", "sft", "model=m", "dataset=rows.jsonl", "output_dir=out", "max_steps=8")


def write(rows: list[Any], name: str = "rows.jsonl") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(name).write_text("".join(line + "\n" for line in lines))
