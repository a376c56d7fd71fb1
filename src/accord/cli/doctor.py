"""The command `accord doctor`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import typer

commands = typer.Typer()


@commands.command()
def doctor() -> None:
    """Show versions, devices, memory and disk.

    The output names the versions of accord and of what it uses, the processor and its threads, the
    memory, the devices and the disk space. Quote it in a question or a bug report.
    """
    rows = machine_facts()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def machine_facts() -> list[tuple[str, str]]:
    """Rows of name and value: versions, processor, threads, memory, devices, disk."""
    import torch

    from accord.runs.manifest import machine, versions
    from accord.runs.storage import format_bytes

    rows = [(name, version) for name, version in versions().items()]
    properties = machine()
    rows.append(("system", str(properties["system"])))
    rows.append(("processor", f"{properties['cpu']}, {properties['cores']} cores for this process"))
    threads = f"{torch.get_num_threads()} in torch"
    if "OMP_NUM_THREADS" in os.environ:
        threads += f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})"
    rows.append(("threads", threads))
    rows.append(("memory", _memory(properties["memory"])))
    rows += _devices(torch)
    usage = shutil.disk_usage(Path.cwd())
    rows.append(
        ("disk", f"{format_bytes(usage.free)} of {format_bytes(usage.total)} free in this folder")
    )
    return rows


def _memory(total: int | None) -> str:
    from accord.runs.storage import format_bytes

    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = {line.partition(":")[0]: line.split()[1] for line in lines}["MemAvailable"]
    except (OSError, KeyError, IndexError):
        return format_bytes(total) if total else "unknown"
    return f"{format_bytes(int(available) * 1024)} of {format_bytes(total or 0)} available"


def _devices(torch: Any) -> list[tuple[str, str]]:
    from accord.runs.storage import format_bytes

    if not torch.cuda.is_available():
        return [("device", "cpu (no CUDA device)")]

    rows = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        rows.append(
            (f"cuda:{index}", f"{name}, {format_bytes(free)} of {format_bytes(total)} free")
        )
    return rows
