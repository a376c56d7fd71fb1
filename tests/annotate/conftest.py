from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.compare.store.store import PreferenceStore
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
