"""Pairs of the embedded world, labelled by its true reward with the noise of people."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.measure.audits.document import AuditDocument
from accord.pipeline.probe.run import read_probe_settings, run_probe
from accord.pipeline.progress import run_to_end


def world_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The study's pairs of the embedded world, by a seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[3] / "studies"))
        pairs: list[dict[str, Any]] = importlib.import_module("probes").world_pairs(
            count, random.Random(seed)
        )
    return pairs


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def world_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("probe") / "pairs.jsonl", world_pairs(120))


Probe = Callable[..., AuditDocument]


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Probes with these settings, in a folder of the test's own."""

    def run(*overrides: str) -> AuditDocument:
        values = [f"output_dir={tmp_path / 'out'}", *overrides]
        document: AuditDocument = run_to_end(run_probe(read_probe_settings(None, values)))
        return document

    return run
