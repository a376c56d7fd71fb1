"""What this process may use of the machine: cores, memory and shared memory, in a container too.

The files are those of Linux (cgroups, versions 1 and 2). Elsewhere the limits are None.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
_UNLIMITED = 2**60
"""A version 1 group without a limit reports the largest multiple of a page below 2⁶³."""


def cores() -> int:
    """The processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def processor_limit(root: Path = ROOT) -> float | None:
    """The processors' worth of time that the groups of this process allow; None without a limit."""
    limits = []
    for folder in _group_folders(root, "cpu"):
        words = _words(folder / "cpu.max") or (
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        )
        with suppress(ValueError):  # "max", -1 or nothing: no limit
            quota, period = map(float, words)
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The bytes that the groups of this process allow, the smallest; None without a limit."""
    limits = []
    for folder in _group_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(ValueError):
                limits += [int(word) for word in _words(folder / name)[:1]]
    return min((limit for limit in limits if 0 < limit < _UNLIMITED), default=None)


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """/proc/meminfo in bytes, by name; empty elsewhere."""
    values = {}
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            with suppress(ValueError, IndexError):
                values[name] = int(rest.split()[0]) * 1024
    return values


def processor_flags(root: Path = ROOT) -> frozenset[str]:
    """The instruction sets that /proc/cpuinfo names (x86 `flags`, ARM `Features`)."""
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(rest.split())
    return frozenset()


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all groups around it.

    In a container the path may be the host's, of which the container sees its end alone, so the
    controller's top folder is always among them.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    mount = root / "sys/fs/cgroup"
    for line in lines or ["0::/"]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controllers if controllers else mount
        if controllers and not top.is_dir():
            top = mount / controller
        parts = [part for part in path.split("/") if part and part != ".."]
        for end in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:end])


def _words(path: Path) -> tuple[str, ...]:
    with suppress(OSError):
        return tuple(path.read_text(encoding="ascii").split())
    return ()


def usable_processors(root: Path = ROOT) -> int:
    """Processors that do this process any good: those it may run on, within its groups' limit."""
    limit = processor_limit(root)
    return cores() if limit is None else max(1, min(cores(), math.ceil(limit)))
