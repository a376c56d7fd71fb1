"""Memory of models that are no longer used, returned to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

import torch

_MMAP_THRESHOLD = -3  # of malloc.h


def return_memory() -> None:
    """Free unused models now, and return their memory to the system.

    A model's modules, hooks and adapters refer to each other, so that Python frees them only at a
    full collection; and the allocator keeps what was freed. In a run of several stages each would
    begin with the memory of those before it.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def return_large_blocks() -> None:
    """From now on return freed blocks of a megabyte or more to the system at once.

    The C library raises its limit with each large block that is freed, up to 32 MB: layers that
    are gathered and released would stay with the process. A block then costs page faults.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, 1 << 20)
