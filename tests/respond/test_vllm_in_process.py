"""vLLM in the process that trains, for real: ACCORD_VLLM_PYTHON names a Python with vLLM that also
has what accord needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.workers.vllm_server import vllm_python

SOURCE = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why the test can't run here."""
    python = vllm_python()
    if python is None:
        return "ACCORD_VLLM_PYTHON is not set"
    imports = "import torch, peft, datasets, pyarrow, typer, vllm"
    done = subprocess.run([python, "-c", imports], capture_output=True, text=True)
    if done.returncode:
        return f"ACCORD_VLLM_PYTHON lacks what accord needs: {done.stderr.strip()[-100:]}"
    return None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    paths = os.pathsep.join([str(SOURCE / "src"), str(SOURCE)])
    done = subprocess.run(
        [str(vllm_python()), "-m", "tests.respond.colocated_worker", tmp_path_factory.mktemp("r")],
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stdout[-2000:] + done.stderr[-3000:]
    loaded: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULTS "))
    print(json.dumps({name: loaded[name][-1] for name in ("full", "lora")}, indent=1))
    return loaded


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_policy_learns_from_its_own_samples(name: str, results: dict[str, Any]) -> None:
    rows = results[name]
    assert len(rows) == 8
    assert rows[-1]["objective/kl"] > 0.3  # it has moved, and the engine with it:
    for row in rows:
        assert abs(row["sampler/mismatch_kl"]) < 1e-3  # nats a token, both in fp32
        assert row["sampler/weight_mean"] == pytest.approx(1.0, abs=0.01)
    # A score's error is 0.16.
    assert rows[-1]["objective/scores"] > rows[0]["objective/scores"] + 0.7


@pytest.mark.parametrize("name", ["full", "lora"])
def test_greedy_answers_are_those_of_the_local_engine(name: str, results: dict[str, Any]) -> None:
    answers = results[f"{name} greedy"]
    assert answers["vllm"] == answers["local"]
    assert any(text for texts in answers["vllm"] for text in texts)


def test_stop_strings_and_seeds(results: dict[str, Any]) -> None:
    texts = [text for row in results["stopped"] for text in row]
    assert len(texts) == 40
    assert not any("w1" in text or "eos" in text for text in texts)
    assert len(set(texts)) > 10
    assert results["again"] == results["stopped"]  # another engine, the same seed
