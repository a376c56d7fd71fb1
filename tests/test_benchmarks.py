"""The benchmarks are run by hand, so only these tests notice that what they call has changed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OTHER_TOOLS = ("trl_", "vllm_")  # modules that run in those tools' environments

IMPORTS = """
import importlib, sys
sys.path[:0] = sys.argv[1:3]
for name in sys.argv[3:]:
    importlib.import_module(name)
"""


def test_every_benchmark_imports() -> None:
    folders = [BENCHMARKS, BENCHMARKS / "workers"]
    names = [path.stem for folder in folders for path in sorted(folder.glob("*.py"))]
    names = [name for name in names if not name.startswith(OTHER_TOOLS)]
    assert {"online", "compare_revisions", "accord_memory"} <= set(names)
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS, *map(str, folders), *names], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture
def benchmark_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("script", "method", "options"),
    [
        ("accord_steps.py", "dpo", ["--rows", "2"]),
        pytest.param("accord_steps.py", "kto", ["--rows", "2"], marks=pytest.mark.slow),
        pytest.param(
            "accord_online.py",
            "grpo",
            ["--episodes", "4", "--group", "2", "--tokens", "4"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "accord_memory.py",
            "dpo",
            ["--rows", "2", "--passes", "1", "--length", "4"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_worker_takes_a_step(
    script: str, method: str, options: list[str], tmp_path: Path, benchmark_path: None
) -> None:
    lockstep = importlib.import_module("workers.lockstep")
    workload = importlib.import_module("workers.workload")
    work = workload.Workload(vocabulary=300, hidden=64, layers=1, prompt=8, response=8, rows=8)
    folder = tmp_path / "work"
    workload.write_workload(work, folder)
    (folder / "pairs.json").write_text((folder / "rows.json").read_text())
    arguments = [method, str(folder), *options, "--steps", "2", "--precision", "fp32"]
    worker = lockstep.Worker(sys.executable, script, *arguments)
    try:
        result = worker.step()
    finally:
        worker.close()
    assert all(value >= 0 for value in result.values())
    assert result.get("step", result.get("peak")) > 0


def test_revisions_are_compared_pair_by_pair(benchmark_path: None) -> None:
    compare_revisions = importlib.import_module("compare_revisions")
    before = [{"step": 1.0, "reference": 1.0, "memory": 10.0}, {"step": 3.0, "memory": 20.0}]
    after = [{"step": 1.0, "memory": 10.0}, {"step": 6.0, "memory": 10.0}]
    figures = compare_revisions.compute_figures({"before": before, "after": after})
    # Pairs (2, 1) and (3, 6): ratios of 0.5 and 2, with a median of 1.25. The ratio of the medians
    # would be 3.5 / 2.5 = 1.4.
    assert figures["ratios"] == [0.5, 2.0]
    assert figures["median_ratio"] == 1.25
    assert figures["median_seconds"] == {"before": 2.5, "after": 3.5}
    assert figures["memory"] == {"before": 20.0, "after": 10.0}
