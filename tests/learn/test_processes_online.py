"""Online methods in several processes learn what one does on as many episodes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.tiny_world import tiny_ppo_command

from tests.learn.one_online import CASES, run
from tests.learn.test_killed import metric_rows, same
from tests.learn.test_processes import launched, start

pytestmark = pytest.mark.slow

# Of a pass, so not the same where passes are others.
BY_PASS = ("seconds", "val/ratio_var")


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of 8 episodes each have learned, in a folder for each case."""
    folder = tmp_path_factory.mktemp("two")
    launched(2, "tests.learn.one_online", "8", str(folder))
    return folder


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key not in BY_PASS:
            nan = isinstance(value, float) and math.isnan(value)
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=nan), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_of_8_episodes_are_one_of_16(name: str, in_two: Path, tmp_path: Path) -> None:
    told, tensors = run(CASES[name], 16, tmp_path)
    first, second = (json.loads((in_two / name / f"told-{i}.json").read_text()) for i in (0, 1))
    assert first["texts"] == told["texts"]
    assert len({len(text) for texts in told["texts"] for text in texts}) > 2  # unequal lengths
    assert len(first["rows"]) == len(told["rows"])
    for found, expected in zip(first["rows"], told["rows"], strict=True):
        close(found, expected)
    for key in ("3 unseen", "1 unseen"):
        if key in told:
            close(first[key], told[key])
    assert first["error"] == told["error"]
    state = [load_file(in_two / name / f"state-{i}.safetensors") for i in (0, 1)]
    for key, value in tensors.items():
        assert torch.equal(state[0][key], state[1][key]), key
        size = float(value.norm())
        assert float((state[0][key] - value).norm()) <= 1e-4 * size + 1e-6, key
    # What a process is told must not depend on which it is.
    for mine, other in zip(first["rows"], second["rows"], strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in other.items() if k != "seconds"}, rel=0, abs=0, nan_ok=True
        )


def test_the_cases_are_what_they_say(in_two: Path) -> None:
    def rows(name: str) -> Any:
        return json.loads((in_two / name / "told-0.json").read_text())["rows"]

    assert [r["skipped"] for r in rows("a broken reward")] == [0.0, 1.0, 0.0]
    assert [r["skipped"] for r in rows("always broken")] == [1.0, 1.0]  # the third ends the run
    assert [r["rolled_back"] for r in rows("limit")][:2] == [0.0, 1.0]
    assert len({r["objective/beta"] for r in rows("ppo")}) == 3
    for name in ("grpo, dynamic sampling", "cispo, dynamic sampling, server"):
        assert sum(r["dynamic_sampling/replaced_prompts"] for r in rows(name)) > 0
    assert not list(in_two.glob("**/start-*"))


def lora_ppo(world: Path, **more: object) -> list[str]:
    """Adapters on policy and on a critic that is a model of its own; 6 iterations."""
    own = {"critic": "separate", "lora.r": 2, "eval_dataset": world / "test_prompts.jsonl"}
    return ["accord", *tiny_ppo_command(world, steps=6, save_steps=2, **own, **more)]


def workers(running: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started, in order."""
    found = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def disturbed(command: list[str], folder: Path, lines: int, who: int, number: int) -> str:
    """Send one of two processes a signal when there are so many rows; returns what was told."""
    log, metrics = folder / "log", folder / "out/metrics.jsonl"
    running = start(2, *command, cwd=folder, log=log)
    while running.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
            os.kill(workers(running)[who], number)
            break
        time.sleep(0.01)
    assert running.wait(timeout=300) != 0
    return log.read_text()


def test_the_command_in_two_processes_disturbed_and_not(tiny_world: Path, tmp_path: Path) -> None:
    # One process of 8; two of 4, whole; and two of which one is killed, and the main one
    # interrupted.
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    for folder in (one, two, again):
        folder.mkdir()
    command = lora_ppo(tiny_world, per_device_train_batch_size=4)
    launched(1, *lora_ppo(tiny_world, per_device_train_batch_size=8), cwd=one)
    launched(2, *command, cwd=two)
    for found, expected in zip(metric_rows(two / "out"), metric_rows(one / "out"), strict=True):
        assert found.keys() == expected.keys()
        for key in ("loss", "objective/scores", "objective/kl", "eval/objective/scores"):
            if key in expected:
                assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), key
    assert json.loads((two / "out/manifest.json").read_text())["status"] == "finished"
    told = disturbed(command, again, lines=3, who=1, number=signal.SIGKILL)
    assert "The processes of this run lost their connection" in told
    told = disturbed(command, again, lines=5, who=0, number=signal.SIGINT)
    assert "Interrupted. The same command resumes where it stopped." in told
    launched(2, *command, cwd=again)
    same(two / "out", again / "out")
    assert not list((again / "out").glob("start-*"))
    assert not (again / "out/episodes").exists()
