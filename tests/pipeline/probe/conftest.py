"""Pairs of the embedded world, labelled by its true reward with the noise of people."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.measure.audits.document import AuditDocument
from accord.pipeline.probe.run import read_probe_settings, run_probe
from accord.pipeline.progress import run_to_end
from accord.records import prompt_json
from accord.world.annotators import simulated_preference
from accord.world.demonstrations import demonstrate
from accord.world.reward import true_reward
from accord.world.tasks import draw_task


def world_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        task = draw_task(rng)
        answers = [demonstrate(task, rng), demonstrate(task, rng)]
        if answers[0] == answers[1]:
            continue
        scores = [true_reward(task.prompt, answer) for answer in answers]
        first = simulated_preference(scores, noise=0.1, rng=rng)[0]
        chosen, rejected = answers if first == 0 else answers[::-1]
        row = {"prompt": prompt_json(task.prompt), "chosen": chosen, "rejected": rejected}
        rows.append({**row, "kind": task.kind})
    return rows


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
