"""The study `real` in its short form, where a real chat model and preferences are at hand.

ACCORD_REAL_MODEL names a chat model's folder and ACCORD_REAL_DATASET a file of HH-RLHF's dialogues;
the study was made for SmolLM2-135M-Instruct. TRL's steps are compared where `.venv-trl` is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODEL, DATASET = os.environ.get("ACCORD_REAL_MODEL"), os.environ.get("ACCORD_REAL_DATASET")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL and DATASET),
        reason="no real model: ACCORD_REAL_MODEL and ACCORD_REAL_DATASET name one, and its rows",
    ),
]


def test_a_real_model_goes_through_every_method_with_the_numbers_of_other_libraries(
    tmp_path: Path,
) -> None:
    command = [sys.executable, ROOT / "studies" / "real.py", "--short"]
    options = ["--model", str(MODEL), "--dataset", str(DATASET), "--output-dir", tmp_path]
    process = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-4000:]
    results = json.loads((tmp_path / "real.json").read_text())
    differences = [check for check in results["checks"] if check["equal"] is False]
    assert not differences, differences
    assert {"sft", "reward", "dpo", "kto", "orpo", "ppo", "grpo", "iterate", "report"} <= {
        stage["stage"] for stage in results["stages"]
    }
    assert (tmp_path / "run" / "report.html").is_file()
