"""A vLLM server as a process, in an environment of its own (ACCORD_VLLM_PYTHON)."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 300.0  # seconds until it must have started


def vllm_python() -> Path | None:
    """The Python of an environment with vLLM, if there is one."""
    given = os.environ.get("ACCORD_VLLM_PYTHON")
    return Path(given) if given else None


class VllmServer:
    """Serves a model folder on a free port of this machine, from construction until `close`."""

    def __init__(self, python: Path, model: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=self.said,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": "",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the cores that this process may use
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            },
        )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(1.0)
        self.said.seek(0)
        told = self.said.read()[-3000:]
        self.close()
        raise RuntimeError(f"the vLLM server did not start:\n{told}")

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()
