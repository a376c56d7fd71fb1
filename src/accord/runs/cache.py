"""Where accord keeps what later runs can use again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def cache_folder(what: str) -> Path:
    """The folder for one kind of kept things: in $ACCORD_CACHE, or accord/ in the user's cache."""
    given = os.environ.get("ACCORD_CACHE")
    if given:
        return Path(given).expanduser() / what
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "accord" / what


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the `count` newest folders in `folder`."""
    entries = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    entries.sort(key=lambda p: p.stat().st_mtime)
    for old in entries[:-count]:
        shutil.rmtree(old, ignore_errors=True)
