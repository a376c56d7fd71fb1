"""The cache folder, and removal of its oldest entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accord.learn.offline.reference_cache import DIGEST
from accord.runs.cache import cache_folder, remove_oldest


def test_only_the_newest_folders_remain(tmp_path: Path) -> None:
    for age, name in enumerate(("d", "a", "c", "b")):  # names are not in order of age
        (tmp_path / name).mkdir()
        (tmp_path / name / "entry").touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / ".partial").mkdir()  # another run is writing it
    os.utime(tmp_path / ".partial", (0, 0))
    remove_oldest(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial", "a", "d"]
    remove_oldest(tmp_path, 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial", "a", "d"]


def test_folders_of_other_names_remain(tmp_path: Path) -> None:
    for name in ("precious", "0" * 32, "1" * 32, "1" * 33):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (int(name[0] == "1"), int(name[0] == "1")))
    remove_oldest(tmp_path, 1, DIGEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1" * 32, "1" * 33, "precious"]


def test_the_environment_sets_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    assert cache_folder("reference") == tmp_path / "reference"
    monkeypatch.delenv("ACCORD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("reference") == tmp_path / "xdg" / "accord" / "reference"
