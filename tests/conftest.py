"""Fixtures for all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies.commands import CommandServer

from tests.postgresql import PostgreSql, running_postgresql

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Leave the modules and the tests out of later collections of garbage: each stage of a run
    ends with one, which would take over a second with all that ten thousand tests hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that needs it skips without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world with a few prompts and a model of some 35,000 parameters. Read only."""
    from studies.tiny_world import build_tiny_world

    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))


@pytest.fixture(scope="session")
def commands() -> Iterator[CommandServer]:
    """Starts `accord` commands as processes that can be killed."""
    server = CommandServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A PostgreSQL server; a test that needs it skips without one."""
    with running_postgresql() as server:
        yield server
