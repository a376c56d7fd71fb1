"""Attention and MLP layers that take few operations a step: one product of their input, not three.

A decoding step has few rows, so each operation costs more than its numbers. Queries, keys and
values are one product, the gate and the MLP's input another, and both rotations are computed
together. A layer is replaced only where a trial shows that it computes what the replacement does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from accord.lm.attention.decoding import DecodeStep
from accord.lm.attention.packed import packed_attention
from accord.lm.attention.reuse import RecordedCall
from accord.lm.kernels.last_layer import LastLayer

Forward = Callable[..., Any]
MakeLinear = Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]

TRIAL_TOKENS = 3
TOLERANCE = (
    0.02  # of a trial's norm: what bfloat16 leaves open; another formula differs by far more
)

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Rotation:
    """x∘cos + rotate_half(x)∘sin (Su et al. 2021, Llama's layout of halves), with the sign of
    `rotate_half` in the sines, once for all layers of a pass."""

    sin: Tensor | None = None
    signed: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x (T, heads, D) by cos and sin (1, T, D)."""
        half = sin.shape[-1] // 2
        if self.sin is not sin:
            signed = torch.cat((-sin[0, :, None, :half], sin[0, :, None, half:]), -1)
            self.sin, self.signed = sin, signed
        return (x * cos[0, :, None]).add_(x.roll(half, -1).mul_(self.signed))


def fused_forward(module: nn.Module, make_linear: MakeLinear, rotation: Rotation) -> Forward | None:
    """A faster forward of an attention layer or MLP in bfloat16, without gradient; None where the
    module is neither, or computes something else. `make_linear` gives x ↦ x·Wᵀ + b; the layers of a
    model share a `rotation`."""
    if _has_linears(module, MLP_LINEARS) and hasattr(module, "act_fn"):
        return _fused_mlp(module, make_linear)
    if _has_linears(module, ATTENTION_LINEARS):
        return _fused_attention(module, make_linear, rotation)
    return None


def fused_linears(module: nn.Module) -> list[nn.Module]:
    """The linear layers that a replaced module does not call any more."""
    names = MLP_LINEARS if hasattr(module, MLP_LINEARS[0]) else ATTENTION_LINEARS
    return [getattr(module, name) for name in names]


def _has_linears(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a module has plain bfloat16 linear layers with these names, and nobody's hooks."""
    layers = [getattr(module, name, None) for name in names]
    return all(
        type(layer) is nn.Linear
        and layer.weight.dtype == torch.bfloat16
        and "forward" not in vars(layer)
        and all(_is_own_hook(hook) for hook in _hooks(layer))
        for layer in layers
    ) and all(_is_own_hook(hook) for hook in _hooks(module))


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def _is_own_hook(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), LastLayer)


def _joined(make_linear: MakeLinear, layers: list[Any]) -> Callable[[Tensor], Tensor]:
    """The outputs of several linear layers of the same input, one after another."""
    bias = None
    if any(layer.bias is not None for layer in layers):
        zeros = [layer.weight.new_zeros(len(layer.weight)) for layer in layers]
        biases = [
            zero if layer.bias is None else layer.bias.detach()
            for zero, layer in zip(zeros, layers, strict=True)
        ]
        bias = torch.cat(biases)
    return make_linear(torch.cat([layer.weight.detach() for layer in layers]), bias)


def _fused_mlp(module: Any, make_linear: MakeLinear) -> Forward | None:
    plain = module.forward
    up = _joined(make_linear, [module.gate_proj, module.up_proj])
    down = make_linear(module.down_proj.weight, module.down_proj.bias)
    width = len(module.gate_proj.weight)

    def forward(x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            out: Tensor = plain(x)
            return out
        both = up(x)
        return down(module.act_fn(both[..., :width]) * both[..., width:])

    x = _random(module.gate_proj.weight, 1, TRIAL_TOKENS, module.gate_proj.in_features)
    return forward if _agree(_try(plain, x), forward(x)) else None


def _fused_attention(module: Any, make_linear: MakeLinear, rotation: Rotation) -> Forward | None:
    plain = module.forward
    width = getattr(module, "head_dim", None)
    if not isinstance(width, int) or len(module.q_proj.weight) % width:
        return None
    x = _random(module.q_proj.weight, 1, TRIAL_TOKENS, module.q_proj.in_features)
    cos, sin = (_random(x, 1, TRIAL_TOKENS, width, seed=seed) for seed in (1, 2))
    attended = _random(x, 1, TRIAL_TOKENS, len(module.q_proj.weight) // width, width, seed=3)
    call = RecordedCall(attended)
    out = _try(plain, x, position_embeddings=(cos, sin), attention_mask=None, memory=call)
    if not isinstance(out, tuple) or len(out) != 2 or call.options is None:
        return None
    layer = _Attention(module, make_linear, rotation)
    computed = layer.queries_keys_values(x, cos, sin)
    same = all(
        _agree(expected[0].transpose(0, 1), actual)
        for expected, actual in zip(call.tensors, computed, strict=True)
    )
    if not (same and _agree(out[0], layer.out(attended.flatten(2)))):
        return None
    options, sinks = call.options, call.sinks

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        x = hidden_states
        usual = x.dtype == torch.bfloat16 and len(x) == 1 and past_key_values is None
        if not usual or position_embeddings is None:
            kwargs |= {"attention_mask": attention_mask, "past_key_values": past_key_values}
            given: tuple[Tensor, Tensor | None] = plain(
                hidden_states, position_embeddings=position_embeddings, **kwargs
            )
            return given
        q, k, v = layer.queries_keys_values(x, *position_embeddings)
        memory = kwargs.get("memory")
        if isinstance(memory, DecodeStep):
            out = memory.attend(module, q, k, v, options, sinks)[None]
        else:
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
            out, _ = packed_attention(
                module,
                q,
                k,
                v,
                attention_mask,
                scaling=options.scale,
                sliding_window=options.window,
                softcap=options.softcap,
                s_aux=sinks,
                **kwargs,
            )
        return layer.out(out.flatten(2)), None

    return forward


class _Attention:
    """The products of an attention layer, with its norms of queries and keys where it has them."""

    def __init__(self, module: Any, make_linear: MakeLinear, rotation: Rotation) -> None:
        self.width = module.head_dim
        projections = [module.q_proj, module.k_proj, module.v_proj]
        self.query_heads, self.groups, _ = (len(p.weight) // self.width for p in projections)
        self.projection = _joined(make_linear, projections)
        self.out = make_linear(module.o_proj.weight, module.o_proj.bias)
        self.norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        self.rotate = rotation

    def queries_keys_values(
        self, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (T, H, D), keys and values (T, G, D) of inputs (1, T, ·)."""
        heads = self.projection(x)[0].unflatten(1, (-1, self.width))
        count = self.query_heads + self.groups
        turned = heads[:, :count]
        if any(norm is not None for norm in self.norms):
            parts = turned.split((self.query_heads, self.groups), 1)
            turned = torch.cat(
                [p if norm is None else norm(p) for p, norm in zip(parts, self.norms, strict=True)],
                1,
            )
        turned = self.rotate(turned, cos, sin)
        return turned[:, : self.query_heads], turned[:, self.query_heads :], heads[:, count:]


def _random(like: Tensor, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(like)


def _try(function: Forward, *args: Any, **kwargs: Any) -> Any:
    """What a layer gives in a trial; None where it wants other arguments."""
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError):
        return None


def _agree(expected: Any, actual: Tensor) -> bool:
    if not isinstance(expected, Tensor) or expected.shape != actual.shape:
        return False
    error = (expected.float() - actual.float()).norm()
    return expected.dtype == actual.dtype and bool(error <= TOLERANCE * expected.float().norm())
