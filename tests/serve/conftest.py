"""A server of a toy model in a thread of this process, on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn

from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.serve.access import Access
from accord.serve.app import create_app
from accord.serve.engine import Engine
from accord.serve.local import LocalEngine
from accord.serve.protocol import PatientProtocol
from accord.serve.server import closing, listen_to_clients
from tests.lm.toys import save_toy

DEADLINE = 30.0  # seconds that a condition may take to become true


@dataclass
class Served:
    """A running server; `engine` is what it serves."""

    engine: Any
    lm: LanguageModel
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=60, trust_env=False, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60, trust_env=False, **options)

    def chat(self, text: str = "the cat", **options: Any) -> httpx2.Response:
        body = {"model": "toy", "messages": [{"role": "user", "content": text}], **options}
        return self.post("/v1/chat/completions", body)

    def complete(self, prompt: Any = "the cat", **options: Any) -> httpx2.Response:
        return self.post("/v1/completions", {"model": "toy", "prompt": prompt, **options})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def wait_until_free(self) -> None:
        """Wait until no row runs or waits."""
        wait_for(lambda: not self.engine.gauges()["rows_running"] and not self.engine._running)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def toy_lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_causal(save_toy(tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture(scope="session")
def start(toy_lm: LanguageModel) -> Iterator[Callable[..., Served]]:
    """Starts servers: of an engine, or of a local one with these options."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start_server(
        engine: Engine | None = None,
        *,
        access: Access | None = None,
        max_body_bytes: int = 1 << 20,
        **options: Any,
    ) -> Served:
        engine = engine or LocalEngine(toy_lm, ["toy", "models/toy"], **options)
        app = create_app(engine, access or Access("127.0.0.1"), max_body_bytes=max_body_bytes)
        listener = listen_to_clients("127.0.0.1", 0)
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            closing(app, engine),
            http=PatientProtocol,
            log_level="critical",
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        wait_for(lambda: server.started)
        return Served(engine, toy_lm, port)

    yield start_server
    for server, thread in running:
        server.should_exit = True
        thread.join(DEADLINE)


@pytest.fixture(scope="session")
def served(start: Callable[..., Served]) -> Served:
    return start()
