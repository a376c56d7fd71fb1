"""The folder of what later runs can use again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accord.runs.cache import cache_folder, keep_newest


def test_only_the_newest_folders_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("d", "a", "c", "b")):  # the name says nothing of the age
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / ".partial").mkdir()  # being written by another run
    os.utime(tmp_path / ".partial", (0, 0))
    keep_newest(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial", "a", "d"]
    keep_newest(tmp_path, 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial", "a", "d"]


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    assert cache_folder("reference") == tmp_path / "reference"
    monkeypatch.delenv("ACCORD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("reference") == tmp_path / "xdg" / "accord" / "reference"
