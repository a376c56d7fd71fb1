"""A working folder with a model, and commands in it that must fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from accord.cli.entry import run
from tests.failures.commands import Fails


@pytest.fixture
def workdir(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model `m` that a test may damage."""
    shutil.copytree(tiny_world / "model", tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(workdir: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """A function that runs a command which must fail and returns its message, the last line on
    stderr."""

    def check(*arguments: str, code: int = 2) -> str:
        capsys.readouterr()
        assert run(list(arguments)) == code
        *_, message = capsys.readouterr().err.strip().splitlines()
        assert message.startswith("Error: ")
        return message.removeprefix("Error: ")

    return check
