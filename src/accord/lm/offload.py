"""Activations in the machine's memory: what a pass saves for its backward pass leaves the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

SMALLEST = 1 << 16  # bytes: a smaller tensor is not worth a copy

Saved = Callable[[], Tensor]


def offloaded_activations(weights: Iterable[Tensor]) -> AbstractContextManager[None]:
    """A context in which autograd saves what it needs in pinned memory of the machine.

    `weights` stay where they are: a product saves its weight too, which is there anyway. Tensors
    on the CPU and small ones stay as well. The numbers are equal. As
    `torch.autograd.graph.save_on_cpu`, which would copy the weights.
    """
    known = {weight.untyped_storage()._cdata for weight in weights}

    def pack(tensor: Tensor) -> Saved:
        small = tensor.numel() * tensor.element_size() < SMALLEST
        if small or tensor.device.type == "cpu" or tensor.untyped_storage()._cdata in known:
            return lambda: tensor
        if tensor.is_meta:  # a plan: what it would hold is elsewhere meanwhile
            return partial(torch.empty, tensor.shape, dtype=tensor.dtype, device="meta")
        return _moved(tensor)

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved())


def _moved(tensor: Tensor) -> Saved:
    device = tensor.device
    copy = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    copy.copy_(tensor)
    return lambda: copy.to(device, non_blocking=True)
