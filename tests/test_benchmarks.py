"""The benchmarks are run by hand, so nothing else would tell that what they call is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
THEIRS = ("trl_", "vllm_")  # run in other tools' environments

IMPORTS = """
import importlib, sys
sys.path[:0] = sys.argv[1:3]
for name in sys.argv[3:]:
    importlib.import_module(name)
"""


def test_every_benchmark_finds_what_it_calls() -> None:
    places = [BENCHMARKS, BENCHMARKS / "workers"]
    names = [path.stem for place in places for path in sorted(place.glob("*.py"))]
    own = [name for name in names if not name.startswith(THEIRS)]
    assert {"online", "accord_memory"} <= set(own)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *map(str, places), *own], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
