"""The command as a process: its exit code, its streams, signals and pipes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ACCORD = [sys.executable, "-m", "accord"]

# Replaces accord.pipeline by a fake, whose run waits until it is interrupted.
WAITING = """
import sys, types
fake = types.ModuleType("accord.pipeline")
def run_recipe(recipe):
    import time
    print("started", flush=True)
    time.sleep(60)
fake.run_recipe = run_recipe
sys.modules["accord.pipeline"] = fake
from accord.cli import main
main(sys.argv[1:])
"""


def test_a_wrong_request_prints_one_paragraph_on_stderr() -> None:
    done = subprocess.run([*ACCORD, "run", "none.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: There is no recipe 'none.yaml'")
    assert done.stderr.count("\n") == 1


def test_an_interrupt_from_the_keyboard(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stages:\n- stage: world\n")
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "run", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, and its child processes would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.strip() == "Interrupted. The same command resumes where it stopped."


def test_a_closed_pipe_gives_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m accord --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("Usage: accord")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_terminal_without_unicode_gets_every_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ACCORD, "run", "--help"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert "NAME.key=" in done.stdout
