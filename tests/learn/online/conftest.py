"""What the tests of online learning share."""

from __future__ import annotations

import pytest

from tests.learn.online.saved_roles import RoleToys


@pytest.fixture(scope="session")
def role_toys(tmp_path_factory: pytest.TempPathFactory) -> RoleToys:
    """Saved models for the roles of PPO. Read only."""
    return RoleToys(tmp_path_factory.mktemp("roles"))
