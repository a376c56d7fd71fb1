"""Fixtures of the report's tests."""

from __future__ import annotations

import pytest

from accord.settings.stages import ReportSettings
from tests.report.fake_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> ReportSettings:
    """The run, written once; tests that change files write their own."""
    return write_run(tmp_path_factory.mktemp("report") / "run")
