"""Servers with OpenAI's chat API as processes: accord's, transformers' and vLLM's."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

START_TIMEOUT = 600.0  # seconds


class ChatServer:
    """A server on a free port of this machine, from construction until `close`.

    `command` is how it is started; PORT in it stands for the port. `model` is the model's name in
    requests.
    """

    def __init__(self, name: str, command: Sequence[str], model: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.name, self.model, self.url = name, model, f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
        offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        self.process = subprocess.Popen(
            [part.replace("PORT", port) for part in command],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **offline, **environment},
        )

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with its last words where it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    text = self.log.read()[-3000:]
                    raise RuntimeError(f"{self.name} did not start:\n{text}") from None
                time.sleep(0.5)

    @property
    def processor_seconds(self) -> float:
        """Seconds of processor time so far, of the server and the processes that it started."""
        children: dict[int, list[int]] = {}
        seconds: dict[int, float] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(folder.name)
            children.setdefault(int(fields[1]), []).append(pid)
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        pending, total = [self.process.pid], 0.0
        while pending:
            pid = pending.pop()
            total += seconds.get(pid, 0.0)
            pending += children.get(pid, [])
        return total

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
