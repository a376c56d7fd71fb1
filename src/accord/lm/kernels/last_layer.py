"""The last decoder layer computes only the tokens whose hidden states are read.

Keys and values are needed for every token. The queries, the attention output and the MLP are needed
only for tokens whose output is read: most of a prompt's last states are not, and a reward model
reads one state of each response. The states of all other tokens are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = ("layers", "h")
ATTENTIONS = ("self_attn", "attn", "attention")
ATTENTION_PARTS = ("q_proj", "o_proj", "dense", "c_proj")
MAX_READ_SHARE = 0.9  # of the tokens; above it, gather and scatter cost what they save


@dataclass(frozen=True, slots=True)
class _ReadTokens:
    """Flat indices of the tokens that are read, in a batch of `num_tokens`, for one last layer."""

    layer: LastLayer
    index: Tensor
    num_tokens: int


_READ: ContextVar[_ReadTokens | None] = ContextVar("read", default=None)  # of this thread's pass


class LastLayer:
    """Hooks on the parts of a model's last layer that compute each token independently."""

    def __init__(self, backbone: nn.Module) -> None:
        self.hooks: list[Any] = []
        for part in _parts(backbone):
            self.hooks.append(part.register_forward_pre_hook(self._before))
            self.hooks.append(part.register_forward_hook(self._after))

    @contextmanager
    def only(self, index: Tensor, num_tokens: int) -> Iterator[None]:
        """Within, compute only the tokens at the flat indices `index`, which has no duplicates."""
        before = _READ.set(
            _ReadTokens(self, index, num_tokens)
            if len(index) < MAX_READ_SHARE * num_tokens
            else None
        )
        try:
            yield
        finally:
            _READ.reset(before)

    def remove(self) -> None:
        """Remove the hooks; all tokens are computed from now on."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read = _READ.get()
        if read is None or read.layer is not self:  # another model's pass, or that of a copy
            return args
        return (_Gather.apply(args[0], read.index), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        read = _READ.get()
        if read is None or read.layer is not self:
            return out
        scattered: Tensor = _Scatter.apply(out, read.index, read.num_tokens)
        return scattered


def _parts(backbone: nn.Module) -> Iterator[nn.Module]:
    layers = next((x for name in LAYERS if (x := getattr(backbone, name, None)) is not None), None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return
    last = layers[-1]
    attention = next((x for n in ATTENTIONS if (x := getattr(last, n, None)) is not None), None)
    named = [getattr(last, "mlp", None), *(getattr(attention, n, None) for n in ATTENTION_PARTS)]
    yield from (part for part in named if isinstance(part, nn.Module))


# No index is duplicated, so the backward passes are a scatter and a gather without accumulation.
class _Gather(torch.autograd.Function):
    """The tokens (1, n, D) of x (1, T, D) at an index (n,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_tokens = x.shape[1]
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _scatter(grad, index, ctx.num_tokens), None


class _Scatter(torch.autograd.Function):
    """Tokens x (1, n, D) at an index (n,) of (1, T, D), which is zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, num_tokens: int) -> Tensor:
        ctx.save_for_backward(index)
        return _scatter(x, index, num_tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(1, index), None, None


def _scatter(x: Tensor, index: Tensor, num_tokens: int) -> Tensor:
    return x.new_zeros(x.shape[0], num_tokens, x.shape[2]).index_copy_(1, index, x)
