from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.compare.store.store import PreferenceStore
from tests.annotate.browsers import CHROMIUM
from tests.annotate.desks import Clock, fill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of three prompts with two responses each."""
    fill(tmp_path / "prefs.db")
    return tmp_path / "prefs.db"


@pytest.fixture
def store(path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore.open(path) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium; a test that needs it skips without it."""
    for package in ("starlette", "uvicorn", "latex2mathml"):
        pytest.importorskip(package, reason="the extra `annotate` is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
