"""The cache of results that later runs can use again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of results: in $ACCORD_CACHE, or accord/ in the user's cache."""
    root = os.environ.get("ACCORD_CACHE")
    if root:
        return Path(root).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "accord" / kind


def remove_oldest(folder: Path, num_remaining: int, names: str = "*") -> None:
    """Remove the folders of the given names (a pattern) in `folder` but the newest
    `num_remaining`: others may be somebody else's, where $ACCORD_CACHE is a folder in use."""
    entries = [p for p in folder.glob(names) if p.is_dir() and not p.name.startswith(".")]
    entries.sort(key=lambda p: p.stat().st_mtime)
    for old in entries[:-num_remaining]:
        shutil.rmtree(old, ignore_errors=True)
