"""Several processes: what their exchange costs, and how one that hangs ends the others."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from studies.forked import run_forked
from studies.tiny_world import train_command

from tests.learn.loop.exchange_in_processes import exchange_rows, wait_for_a_hanging_process
from tests.learn.toys.launch import start_processes

pytestmark = pytest.mark.slow


def test_rows_that_are_views_of_one_tensor_take_the_memory_of_their_content(
    tmp_path: Path,
) -> None:
    # 2,000 rows of 83 floats are 0.7 MB. Pickled with their whole storage they are 1.3 GB.
    run_forked(2, lambda rank: exchange_rows(tmp_path), tmp_path / "log")
    for rank in (0, 1):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["complete"]
        assert result["grown"] < 50


def test_a_process_that_does_not_answer_ends_the_others_with_a_message(tmp_path: Path) -> None:
    run_forked(2, lambda rank: wait_for_a_hanging_process(tmp_path), tmp_path / "log")
    error = json.loads((tmp_path / "error.json").read_text())["error"]
    assert error.startswith("Process 0 waited ddp_timeout=2 seconds")
    assert "raise ddp_timeout" in error


def test_a_signal_to_the_launcher_ends_all_processes_with_a_checkpoint(
    tiny_world: Path, tmp_path: Path
) -> None:
    # The launcher passes the signal on, as a terminal sends it to all of them already.
    settings = {
        "model": tiny_world / "model",
        "dataset": tiny_world / "demonstrations.jsonl",
        "max_steps": 20_000,
        "save_steps": 20_000,
    }
    command = ["accord", *train_command("sft", settings)]
    launcher = start_processes(2, *command, cwd=tmp_path, log=tmp_path / "log")
    metrics = tmp_path / "out/metrics.jsonl"
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 3:
        assert launcher.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    launcher.send_signal(signal.SIGHUP)
    assert launcher.wait(timeout=60) != 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["status"] == "interrupted"
    (checkpoint,) = (tmp_path / "out/checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) == metrics.read_bytes().count(b"\n")
    assert not (tmp_path / "out/.accord-lock").exists()
