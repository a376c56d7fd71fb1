"""Signals that end a command with a checkpoint and a word, and two commands in one folder."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies.commands import CommandServer
from studies.tiny_world import train_command

from tests.conftest import ROOT
from tests.learn.toys.files import read_jsonl
from tests.learn.toys.kills import finish


def sft_command(world: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": world / "demonstrations.jsonl",
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "save_steps": 10_000,
    }
    return train_command("sft", settings)


def manifest_status(folder: Path) -> str:
    status: str = json.loads((folder / "out/manifest.json").read_text())["status"]
    return status


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGTERM, signal.SIGXCPU, signal.SIGINT], ids=lambda n: n.name
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_word(
    number: signal.Signals, commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft_command(tiny_world, 20_000)
    running = commands.start(*command, cwd=tmp_path)
    running.wait_for_lines(tmp_path / "out/metrics.jsonl", 3)
    running.send_signal(number)
    running.send_signal(number)  # as a launcher and a terminal both send it
    assert running.wait() == 130, running.log.read_text()
    assert running.log.read_text().endswith("The same command resumes where it stopped.\n")
    (checkpoint,) = (tmp_path / "out/checkpoints").iterdir()
    rows = read_jsonl(tmp_path / "out/metrics.jsonl")
    assert int(checkpoint.name.removeprefix("step-")) == len(rows) >= 3
    assert manifest_status(tmp_path) == "interrupted"
    assert not list(tmp_path.glob("out/.accord-lock*"))


def close_terminal_of(command: list[str], folder: Path, hang_up: signal.Handlers) -> int:
    """The exit code of a command whose terminal is closed after three steps.

    It is a process of its own, which becomes the leader of a session on that terminal.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"}
        signal.signal(signal.SIGHUP, hang_up)  # whatever the tests themselves were started with
        os.execv(sys.executable, [sys.executable, "-m", "accord", *command])
    metrics = folder / "out/metrics.jsonl"
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 3:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), os.read(terminal, 10_000)
        time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_with_a_checkpoint(tiny_world: Path, tmp_path: Path) -> None:
    command = sft_command(tiny_world, 20_000)
    assert close_terminal_of(command, tmp_path, signal.SIG_DFL) == 130
    assert len(list((tmp_path / "out/checkpoints").iterdir())) == 1
    assert manifest_status(tmp_path) == "interrupted"


@pytest.mark.slow
def test_a_run_that_ignores_the_signal_outlives_its_terminal(
    tiny_world: Path, tmp_path: Path
) -> None:
    # As after `trap '' HUP` or `disown`: its output still goes to the terminal.
    assert close_terminal_of(sft_command(tiny_world, 300), tmp_path, signal.SIG_IGN) == 0
    assert manifest_status(tmp_path) == "finished"


@pytest.mark.slow
def test_nohup_is_respected(tiny_world: Path, tmp_path: Path) -> None:
    code = "import sys; from accord.cli import main; main(sys.argv[1:])"
    command = ["nohup", sys.executable, "-c", code, *sft_command(tiny_world, 40)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "out/metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0
    assert (tmp_path / "out/model/config.json").is_file()


def test_of_two_runs_in_one_folder_the_second_is_refused_and_the_first_ends_whole(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft_command(tiny_world, 60)
    logs = [tmp_path / name for name in ("first", "second")]
    for folder in logs:
        folder.mkdir()
    command[2] = f"output_dir={tmp_path / 'out'}"
    first, second = (commands.start(*command, cwd=folder) for folder in logs)
    codes = [first.wait(), second.wait()]
    refused = logs[codes.index(2)] / "log"
    pid = (first, second)[codes.index(0)].pid
    assert sorted(codes) == [0, 2]
    assert f"Another run writes to {tmp_path / 'out'}: process {pid} on " in refused.read_text()
    assert [row["step"] for row in read_jsonl(tmp_path / "out/metrics.jsonl")] == [*range(1, 61)]
    # Finished: the same command is no second run.
    finish(commands, command, logs[0])


def test_a_run_takes_over_the_folder_of_a_killed_one(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft_command(tiny_world, 30)
    running = commands.start(*command, cwd=tmp_path)
    running.wait_for_lines(tmp_path / "out/metrics.jsonl", 2)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert (tmp_path / "out/.accord-lock").is_file()
    finish(commands, command, tmp_path)
    assert not (tmp_path / "out/.accord-lock").exists()
