"""A vLLM server that does what a test says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accord.respond import http
from tests.respond.fake_vllm import FakeVllm


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.0)
    server = FakeVllm()
    yield server
    server.close()
