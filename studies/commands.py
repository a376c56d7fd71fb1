"""`accord` commands as processes, without the seconds that importing torch takes.

A server imports everything once; each command is a fork of it. So a test or a study can start a
command many times, and kill it as a machine would.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STACK = "stack"
"""The file beside a command's log to which it writes its stack."""

_FRAME = re.compile(r'File "([^"]+)", line \d+ in (\S+)')


@dataclass(frozen=True)
class RunningCommand:
    """A command that was started. The server remembers it until `wait` is called."""

    server: CommandServer
    pid: int
    log: Path

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        return bool(self.server.request({"has_ended": self.pid}))

    def wait(self) -> int:
        """The exit code, or the negative number of the signal that ended it."""
        return int(self.server.request({"wait": self.pid}))

    def stack(self, timeout: float = 0.05) -> list[str]:
        """The functions that it is in, the innermost first, as `file.py:function`.

        Empty where it has not begun, or has ended, or does not answer within `timeout` seconds.
        """
        path = self.log.with_name(STACK)
        self.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if text.endswith("in <module>\n"):
                frames = _FRAME.findall(text)
                return [f"{Path(file).name}:{function}" for file, function in frames]
            time.sleep(0.0002)
        return []

    def wait_for_lines(self, path: Path, count: int) -> None:
        """Return when a file has `count` lines, or when the command has ended."""
        while not self.has_ended():
            if path.is_file() and path.read_bytes().count(b"\n") >= count:
                return
            time.sleep(0.002)


class CommandServer:
    """The process from which commands are forked. They compute on one thread."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def request(self, request: dict[str, Any]) -> Any:
        """The server's answer to a request (see `serve`)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        *arguments: str,
        cwd: Path,
        killed_in_checkpoint: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> RunningCommand:
        """Start `accord ARGUMENTS` in `cwd`; what it prints goes to `log` there.

        With `killed_in_checkpoint` = n it is killed when half of its n-th checkpoint is written.
        `environment` is added to the server's.
        """
        log = cwd / "log"
        request = {
            "arguments": arguments,
            "cwd": str(cwd),
            "log": str(log),
            "killed_in_checkpoint": killed_in_checkpoint,
            "environment": dict(environment or {}),
        }
        return RunningCommand(self, int(self.request(request)), log)

    def close(self) -> None:
        self.process.communicate()  # it ends at the end of its input


def serve() -> None:
    """Answer requests, a JSON line each: `wait` or `has_ended` of a pid, or a command to start."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import accord.cli.entry
    import accord.report.page
    from accord.pipeline import run_recipe, run_stage

    imported = (accord, LlamaForCausalLM, LlamaForSequenceClassification, run_recipe, run_stage)
    assert all(imported)
    get_checkpoint_conversion_mapping("llama")  # a table that the first call builds
    gc.collect()
    gc.freeze()  # a stage ends with a collection, which need not look at all that is imported
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until a command can answer it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` before a study is not for its commands
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif "has_ended" in request:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            answer = os.waitid(os.P_PID, request["has_ended"], options) is not None
        else:
            answer = os.fork()
            if answer == 0:
                _run_command(request)
        print(json.dumps(answer), flush=True)


def _run_command(request: dict[str, Any]) -> None:
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        devnull = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((devnull, 0), (log, 1), (log, 2)):
            os.dup2(number, target)
        os.chdir(request["cwd"])
        os.environ.update(request["environment"])
        stack = open(STACK, "w")  # noqa: SIM115 - open while the command runs
        faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
        sys.argv = ["accord", *request["arguments"]]
        if request["killed_in_checkpoint"]:
            _kill_in_checkpoint(request["killed_in_checkpoint"])
        from accord.cli.entry import run

        code = run(request["arguments"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _kill_in_checkpoint(number: int) -> None:
    from accord.learn.loop import checkpoints

    real_save_file, written = checkpoints.save_file, []

    def save(tensors: Any, path: Path) -> None:
        real_save_file(tensors, path)
        written.append(path)
        if len(written) == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_file = save


if __name__ == "__main__":
    serve()
