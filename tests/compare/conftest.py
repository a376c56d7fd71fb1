"""An empty preference store in a new folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.compare.store.store import PreferenceStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore.open(path) as opened:
        yield opened
