"""What would make this machine faster, or keep a run from being killed: limits and settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from accord.machine.limits import (
    ROOT,
    meminfo,
    memory_limit,
    processor_flags,
    processor_limit,
    usable_processors,
)
from accord.machine.row import DoctorRow
from accord.runs.storage import format_bytes

SMALL_SHARED_MEMORY = 2**28
"""Containers have 64 MiB unless asked for more; NCCL and data loaders want hundreds."""
SMALL_DISK = 10 * 2**30
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "svebf16")
"""The processors' instructions for bf16 products, on x86 and on ARM."""


def thread_row(threads: int, root: Path = ROOT) -> DoctorRow:
    """torch's threads against the processors that this process may use."""
    usable, limit = usable_processors(root), processor_limit(root)
    variable = os.environ.get("OMP_NUM_THREADS")
    detail = f"{threads} in torch" + (f" (OMP_NUM_THREADS={variable})" if variable else "")
    detail += f", {usable} processors"
    if limit is not None:
        detail += f" (the container allows the time of {limit:g})"
    remedy = ""
    if threads > usable:
        remedy = f"export OMP_NUM_THREADS={usable}: more threads than processors wait for another"
    elif threads < usable and variable:
        remedy = (
            f"unset OMP_NUM_THREADS: one run alone on this machine can use all {usable} "
            "(leave it where several share them)"
        )
    return DoctorRow("speed", "threads", "slow" if remedy else "ok", detail, remedy)


def bf16_row(ratio: float, root: Path = ROOT) -> DoctorRow:
    """`ratio`: how many times as fast as float32 a product in bf16 was on this processor."""
    flags = [flag for flag in BF16_FLAGS if flag in processor_flags(root)]
    detail = f"a bf16 product takes {1 / ratio:.2f} of the time of float32; the processor has "
    detail += ", ".join(flags) if flags else "no bf16 instructions"
    if ratio >= 1.2:
        remedy = "set precision: bf16 in your recipes"
        return DoctorRow("speed", "bf16", "ok", detail, remedy)
    if ratio >= 0.8:
        return DoctorRow("speed", "bf16", "ok", detail, "bf16 saves memory here, not time")
    return DoctorRow(
        "speed", "bf16", "slow", detail, "train with precision: fp32 where the memory allows it"
    )


def memory_rows(root: Path = ROOT) -> Iterator[DoctorRow]:
    """Memory that the container withholds, and swap that is in use."""
    memory, limit = meminfo(root), memory_limit(root)
    total = memory.get("MemTotal")
    if limit is not None and total is not None and limit < 0.95 * total:
        yield DoctorRow(
            "speed",
            "memory limit",
            "slow",
            f"this process may use {format_bytes(limit)} of the machine's {format_bytes(total)}; "
            "beyond it the system kills the run without a message",
            "raise the container's limit (docker run --memory, resources.limits.memory)",
        )
    swapped = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    if swapped > 2**28:
        yield DoctorRow(
            "speed",
            "swap",
            "slow",
            f"{format_bytes(swapped)} of memory are on disk, where every access is slow",
            "end other programs, or take a smaller batch (per_device_train_batch_size)",
        )


def storage_rows(folder: Path, shared: Path = Path("/dev/shm")) -> Iterator[DoctorRow]:
    """A small /dev/shm, and a disk that checkpoints would fill."""
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < SMALL_SHARED_MEMORY:
        yield DoctorRow(
            "speed",
            "shared memory",
            "slow",
            f"{shared} has {format_bytes(size)}; several processes on GPUs exchange through it",
            "docker run --shm-size=2g (or --ipc=host)",
        )
    free = shutil.disk_usage(folder).free
    if free < SMALL_DISK:
        yield DoctorRow(
            "speed",
            "disk",
            "slow",
            f"{format_bytes(free)} free in this folder; a checkpoint holds the trained weights "
            "and twice as much for the optimiser",
            "point output_dir to another disk, or save less often (save_steps)",
        )
