"""A fake server, and a cache of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.respond import http as attempts
from tests.fake_openai import FakeOpenAi
from tests.pipeline.labels.stores import answer_by, prefers_first, prefers_no, prefers_yes


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    server.answer = answer_by(
        {"yes": prefers_yes, "other": prefers_yes, "no": prefers_no, "first": prefers_first}
    )
    yield server
    server.close()
