"""A vLLM server as a process, in a separate environment (ACCORD_VLLM_PYTHON)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_TIMEOUT = 300.0  # seconds


def vllm_python() -> Path | None:
    """The Python of an environment with vLLM, if there is one."""
    path = os.environ.get("ACCORD_VLLM_PYTHON")
    return Path(path) if path else None


class VllmServer:
    """Serves a model folder on a free port of this machine, from construction until `close`."""

    def __init__(self, python: Path, model: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *arguments]
        self.command = command
        self.start()
        self._wait_until_healthy()

    def start(self) -> None:
        """Start the process, with the weights that it was first started with."""
        self.process = subprocess.Popen(
            self.command,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": "",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the cores that this process may use
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
                "VLLM_SERVER_DEV_MODE": "1",  # replaces its weights on request
            },
            start_new_session=True,
        )

    def kill(self) -> None:
        """End all its processes at once, as a machine that fails does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(1.0)
        self.log.seek(0)
        text = self.log.read()[-3000:]
        self.close()
        raise RuntimeError(f"the vLLM server did not start:\n{text}")

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
