"""The bytes that each role of a training stage holds, whatever is being computed.

The same arithmetic as `online.memory.memory_plan`, from shapes instead of loaded weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from accord.learn.online.memory import RoleMemory
from accord.lm.loading.quantised import packed_bytes, quantised_layers
from accord.lm.model import LanguageModel

Bytes = int


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Numbers of parameters of a model: of the base, of which `strict` stay float32 under bf16, of
    its adapters, and of its scalar heads. `layers` are those of the base's linear layers, which
    `quantization` holds in 4 bits, each one's."""

    base: int
    adapter: int = 0
    head: int = 0
    strict: int = 0
    layers: tuple[int, ...] = ()

    @property
    def base_and_head(self) -> int:
        return self.base + self.head


def part_numel(parameter: Tensor, parts: int) -> int:
    """The numbers of a parameter that the process with the largest of `parts` has: of rows."""
    if parts == 1 or not parameter.ndim:
        return parameter.numel()
    return -(-parameter.shape[0] // parts) * prod(parameter.shape[1:])


def trained_numels(lm: LanguageModel, parts: int = 1) -> list[int]:
    """The numbers of each parameter that is trained, of which a process has one of `parts`."""
    return [_numel_of(lm, name, p, parts) for name, p in lm.trainable_parameters().items()]


def _numel_of(lm: LanguageModel, name: str, parameter: Tensor, parts: int) -> int:
    return part_numel(parameter, 1 if lm.stays_float32(name) else parts)


def model_sizes(lm: LanguageModel, parts: int = 1) -> ModelSizes:
    """The sizes of a (weightless) model. Tied weights count once.

    Where `parts` processes divide it, those of one process: scalar heads, and what the architecture
    keeps in float32, are whole in each.
    """
    base = adapter = head = strict = 0
    for name, parameter in lm.model.named_parameters():
        count = _numel_of(lm, name, parameter, parts)
        if ".lora_" in name:
            adapter += count
        elif lm.scalar and "score" in name.split("."):
            # peft holds a trained head beside the one that it replaces.
            original = count if ".original_module." in name else 0
            head += count - original
            base += original
            strict += original
        else:
            base += count
            strict += count if lm.stays_float32(name) else 0
    layers = tuple(m.weight.numel() for _, m in quantised_layers(lm.inner))
    return ModelSizes(base, adapter, head, strict, layers)


def frozen_role(sizes: ModelSizes, *, half: bool, four_bit: bool = False) -> RoleMemory:
    """A separate model that is not trained, with its heads in float32."""
    weights, quantised = _base(sizes, half=half, four_bit=four_bit)
    return RoleMemory(weights + 4 * sizes.head, quantised=quantised)


def full_role(sizes: ModelSizes, *, half: bool) -> RoleMemory:
    """A model of which every weight is trained; its optimiser has two moments in float32."""
    trained = sizes.base_and_head
    masters = 4 * (sizes.base - sizes.strict) if half else 0
    weights = _stored(sizes.base, sizes.strict, half=half) + 4 * sizes.head
    return RoleMemory(weights, masters, 4 * trained, 8 * trained)


def adapter_role(
    sizes: ModelSizes,
    *,
    half: bool,
    base: bool = True,
    float32_base: bool = False,
    four_bit: bool = False,
    masters: bool = True,
) -> RoleMemory:
    """Adapters and heads that are trained, with the frozen base unless another role holds it.

    `float32_base`: an adapter was merged into it, so that it is float32 and computes in bf16.
    Without `masters` adapters are float32 alone: those of a divided model are gathered in bf16.
    """
    weights = quantised = 0
    if base:
        weights, quantised = _base(sizes, half=half and not float32_base, four_bit=four_bit)
    trained = sizes.adapter + sizes.head
    copies = half and masters
    weights += (2 if copies else 4) * sizes.adapter + 4 * sizes.head
    return RoleMemory(
        weights, 4 * sizes.adapter if copies else 0, 4 * trained, 8 * trained, quantised
    )


def frozen_adapter_role(sizes: ModelSizes, *, half: bool) -> RoleMemory:
    """Frozen adapters on another role's base, with their head."""
    return RoleMemory(weights=(2 if half else 4) * sizes.adapter + 4 * sizes.head)


def head_role(width: int) -> RoleMemory:
    """A trained head with its bias on another role's hidden states."""
    trained = width + 1
    return RoleMemory(4 * trained, 0, 4 * trained, 8 * trained)


def _base(sizes: ModelSizes, *, half: bool, four_bit: bool) -> tuple[Bytes, Bytes]:
    """The bytes of a frozen base: its plain weights, and those in 4 bits."""
    if not four_bit:
        return _stored(sizes.base, sizes.strict, half=half), 0
    plain = _stored(sizes.base - sum(sizes.layers), sizes.strict, half=half)
    return plain, sum(map(packed_bytes, sizes.layers))


def _stored(count: int, strict: int, *, half: bool) -> Bytes:
    return 2 * (count - strict) + 4 * strict if half else 4 * count
