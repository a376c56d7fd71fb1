"""The machine that is planned for: this one, or one that is described."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from accord.errors import RequestError
from accord.machine.limits import meminfo, memory_limit

LIBRARIES = 600 << 20
"""Bytes of a process that has imported what training needs, before it loads a model."""
CUDA_CONTEXT = 600 << 20
"""Bytes of a GPU that its driver and the libraries' kernels take."""
_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_SIZE = r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[KMGT])i?B"


@dataclass(frozen=True, slots=True)
class Machine:
    """`count` processes, each on a GPU with `memory` bytes for it and its libraries, or all of them
    in `memory` bytes without one. `total` is the memory of the whole device, where some of it is in
    use."""

    device: Literal["cpu", "cuda"]
    memory: int
    count: int = 1
    described: bool = True
    total: int | None = None

    @property
    def usable(self) -> int:
        """Bytes of a process for a model and its training. Without GPUs the processes share the
        memory."""
        if self.device == "cuda":
            return self.memory - CUDA_CONTEXT
        return self.memory // self.count - LIBRARIES

    @property
    def name(self) -> str:
        memory = f"{self.memory / 2**30:.1f} GB"
        if self.device == "cuda":
            text = f"{self.count} GPU{'s' if self.count > 1 else ''} with {memory} each"
        else:
            text = f"{memory} of memory, no GPU"
            text += f", {self.count} processes" if self.count > 1 else ""
        return text if self.described else f"this machine ({text} available)"


def parse_machine(gpus: str | None, memory: str | None, processes: int | None = None) -> Machine:
    """The machine that `--gpus 4x80GB` or `--memory 24GB` describes; this one without either.

    `--gpus` gives a process to each; otherwise there are `processes`, by default those of the
    launcher. Raises RequestError for text that is neither, and for two numbers of processes. A GB
    is 2³⁰ bytes, as cards and memory are sold.
    """
    if gpus is not None and memory is not None:
        raise RequestError("--gpus and --memory describe two machines. Give one of them.")
    if gpus is not None:
        match = re.fullmatch(rf"(?:(?P<count>[1-9][0-9]*)\s*[x×])?\s*{_SIZE}", gpus.strip(), re.I)
        if match is None:
            raise RequestError(
                f"--gpus {gpus!r} is not understood. Write the number and the memory of each, "
                "such as 1x24GB or 4x80GB."
            )
        count = int(match["count"] or processes or 1)
        if processes not in (None, count):
            raise RequestError(
                f"--gpus {gpus} are {count} processes, one on each, and --processes says "
                f"{processes}. Leave one of them out."
            )
        return Machine("cuda", _positive(match, "--gpus", gpus), count)
    count = processes or launched_processes()
    if memory is not None:
        match = re.fullmatch(_SIZE, memory.strip(), re.I)
        if match is None:
            raise RequestError(f"--memory {memory!r} is not understood. Write it as 24GB or 800MB.")
        return Machine("cpu", _positive(match, "--memory", memory), count)
    return this_machine(count)


def _positive(match: re.Match[str], option: str, text: str) -> int:
    size = int(float(match["number"]) * _UNITS[f"{match['unit'].upper()}B"])
    if size <= 0:
        raise RequestError(f"{option} {text!r} is no memory at all. Write it as 24GB.")
    return size


def launched_processes() -> int:
    """How many processes a launcher has started, as its variable says; 1 without one."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(
            f"The variable WORLD_SIZE is {text!r}, and not the number of processes that a launcher "
            f"starts. Set it to 1 or more, or remove it."
        )
    return int(text)


def this_machine(count: int | None = None) -> Machine:
    """This machine with so many processes, by default those of the launcher: the free memory of its
    GPUs, or what all may still use."""
    import torch

    count = count or launched_processes()

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Machine("cuda", int(free), count, described=False, total=int(total))
    return Machine("cpu", available_memory(), count, described=False, total=total_memory())


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory() -> int:
    """Bytes that a new process may use, within the limit of its control group if there is one."""
    available = meminfo().get("MemAvailable", total_memory())
    limit = memory_limit()
    return available if limit is None else min(available, limit)
