"""What every benchmark prints first: accord's version, the date and the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import accord
from accord.runs import machine


def version_line() -> str:
    return f"accord {accord.__version__}, {datetime.now(UTC):%Y-%m-%d}"


def print_machine() -> dict[str, Any]:
    """Print the version, the date and the machine; returns the machine, for `write_json`."""
    facts = machine()
    print(version_line())
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}")
    return facts


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write a benchmark's figures where `--json` asks for a file."""
    if path is not None:
        path.write_text(json.dumps(values, indent=1))
