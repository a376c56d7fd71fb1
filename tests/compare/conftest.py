"""An empty preference store in a new folder, and an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.compare.store.store import PreferenceStore
from accord.respond import http as attempts
from tests.fake_openai import FakeOpenAi


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore.open(path) as opened:
        yield opened


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    yield server
    server.close()
