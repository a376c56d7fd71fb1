"""A real browser, and a server in a process of its own, which a test can kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SERVER = "from accord.cli import main; main()"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`accord annotate` on a store. After `kill`, `start` is on the same port."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.port = free_port()
        self.command = [sys.executable, "-c", SERVER, "annotate", str(path), *arguments]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = [*self.command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(300):
            try:
                httpx2.get(self.url + "static/icon.svg")
                return
            except httpx2.TransportError:
                time.sleep(0.1)
                assert self.process.poll() is None, self.process.communicate()[0].decode()
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def serving(path: Path, *arguments: str) -> Iterator[Server]:
    server = Server(path, *arguments)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def tab(browser: Any, server: Any, **options: Any) -> Iterator[Any]:
    """A page of a server, or of a proxy before it, in a browser of its own. What it logs as an
    error, and what it asks another host for, fails the test."""
    context = browser.new_context(**options)
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(f"a dialog: {dialog.message}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(server.url) else faults.append(request.url),
    )
    page.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None,
    )
    page.goto(server.url)
    try:
        yield page
        assert faults == []
    finally:
        context.close()


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_for_done(page: Any, count: int) -> None:
    """Wait until so many items are done and the next is shown; the page itself may yet have to
    come."""
    page.wait_for_function(
        "n => document.getElementById('done')?.textContent.startsWith(`${n} done`)"
        " && !document.getElementById('item').hasAttribute('aria-busy')",
        arg=count,
        timeout=20_000,
    )


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page, or in its open dialog: behind that everything is inert."""
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    page.evaluate((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document.querySelector('dialog[open]') ?? document)")
    return [
        f"{each['impact']}: {each['id']} at {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]
