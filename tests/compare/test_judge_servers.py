"""A judge at `transformers serve` and vLLM with a real chat model, as the study measures it.

ACCORD_REAL_MODEL names the model's folder, and ACCORD_VLLM_PYTHON the Python of an environment
with vLLM and transformers' serving extra.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODEL, PYTHON = os.environ.get("ACCORD_REAL_MODEL"), os.environ.get("ACCORD_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL and PYTHON),
        reason="no real servers: ACCORD_REAL_MODEL and ACCORD_VLLM_PYTHON name a model and them",
    ),
]
QUESTIONS = ["What is 2 + 2?", "Name a colour.", "Where is Paris?", "Write a word with three o."]


@pytest.mark.parametrize("server", ["transformers serve", "vLLM"])
def test_no_answer_counts_as_a_verdict_that_it_is_not(tmp_path: Path, server: str) -> None:
    rows = [{"prompt": q, "chosen": "I can say.", "rejected": "No."} for q in QUESTIONS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command: list[str | Path] = [
        sys.executable,
        ROOT / "studies" / "judge_servers.py",
        "--server",
        server,
    ]
    command += ["--model", str(MODEL), "--dataset", tmp_path / "pairs.jsonl", "--kills", "1"]
    command += ["--servers-python", str(PYTHON), "--answer-tokens", "64"]
    command += ["--output", tmp_path / "out.json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-4000:]
    (row,) = json.loads((tmp_path / "out.json").read_text())["servers"]
    assert row["as_json"] + row["as_text"] + row["none"] == 2 * len(QUESTIONS)
    assert (row["wrong"], row["paid_twice"]) == (0, 0)
    assert row["lost_on_their_way"] <= 2  # one kill, of two requests at once
