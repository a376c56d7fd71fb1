"""The last decoder layer computes only the tokens whose hidden states are read.

Keys and values are needed of every token, but what comes after them, the queries, attention's
output and the MLP, is of use only where the layer's own output is: a prompt's states are thrown
away there, and a reward model reads a single one of each response. The other tokens' are zeros.
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
ATTENTION = ("self_attn", "attn", "attention")
OF_ATTENTION = ("q_proj", "o_proj", "dense", "c_proj")
MOST = 0.9  # of the tokens; where more are read, sorting them out costs what it saves


@dataclass(frozen=True, slots=True)
class _Read:
    """The flat tokens that are read of a batch of so many, and whose last layer is to know."""

    of: LastLayer
    rows: Tensor
    tokens: int


_READ: ContextVar[_Read | None] = ContextVar("read", default=None)  # of this thread's pass


class LastLayer:
    """Hooks on those parts of a model's last layer that treat each token by itself."""

    def __init__(self, backbone: nn.Module) -> None:
        self.hooks: list[Any] = []
        for part in _parts(backbone):
            self.hooks.append(part.register_forward_pre_hook(self._before))
            self.hooks.append(part.register_forward_hook(self._after))

    @contextmanager
    def only(self, rows: Tensor, tokens: int) -> Iterator[None]:
        """Compute some of a flat batch's tokens, each given once."""
        before = _READ.set(_Read(self, rows, tokens) if len(rows) < MOST * tokens else None)
        try:
            yield
        finally:
            _READ.reset(before)

    def remove(self) -> None:
        """Compute all tokens from now on."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read = _READ.get()
        if read is None or read.of is not self:  # another model's pass, or that of a copy
            return args
        return (_Taken.apply(args[0], read.rows), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        read = _READ.get()
        if read is None or read.of is not self:
            return out
        laid: Tensor = _Laid.apply(out, read.rows, read.tokens)
        return laid


def _parts(backbone: nn.Module) -> Iterator[nn.Module]:
    layers = next((x for name in LAYERS if (x := getattr(backbone, name, None)) is not None), None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return
    last = layers[-1]
    attention = next((x for n in ATTENTION if (x := getattr(last, n, None)) is not None), None)
    named = [getattr(last, "mlp", None), *(getattr(attention, n, None) for n in OF_ATTENTION)]
    yield from (part for part in named if isinstance(part, nn.Module))


# Each row occurs once, so going back is laying out and taking too, without adding up.
class _Taken(torch.autograd.Function):
    """The rows (1, n, D) of x (1, T, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.tokens = x.shape[1]
        return x.index_select(1, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _laid(grad, rows, ctx.tokens), None


class _Laid(torch.autograd.Function):
    """Zeros (1, T, D) but for the rows (1, n, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _laid(x, rows, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(1, rows), None, None


def _laid(x: Tensor, rows: Tensor, tokens: int) -> Tensor:
    return x.new_zeros(x.shape[0], tokens, x.shape[2]).index_copy_(1, rows, x)
