"""What all rooms of these tests share."""

from __future__ import annotations

import pytest

from tests.learn.toys.adapters import AdapterToys
from tests.learn.toys.saved import SavedToys


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> SavedToys:
    """Saved models and data files. Read only."""
    return SavedToys(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="session")
def adapter_toys(tmp_path_factory: pytest.TempPathFactory) -> AdapterToys:
    """A saved base with an adapter on it. Read only."""
    return AdapterToys(tmp_path_factory.mktemp("adapters"))
