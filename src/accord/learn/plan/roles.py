"""The bytes that each role of a training stage holds, whatever is being computed.

The same arithmetic as `online.memory.memory_plan`, from shapes instead of loaded weights.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def model_sizes(lm: LanguageModel) -> ModelSizes:
    """The sizes of a (weightless) model. Tied weights count once."""
    base = adapter = head = strict = 0
    for name, parameter in lm.model.named_parameters():
        count = parameter.numel()
        if ".lora_" in name:
            adapter += count
        elif lm.scalar and "score" in name.split("."):
            # peft holds a trained head beside the one that it replaces.
            head += 0 if ".original_module." in name else count
            base += count if ".original_module." in name else 0
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
) -> RoleMemory:
    """Adapters and heads that are trained, with the frozen base unless another role holds it.

    `float32_base`: an adapter was merged into it, so that it is float32 and computes in bf16.
    """
    weights = quantised = 0
    if base:
        weights, quantised = _base(sizes, half=half and not float32_base, four_bit=four_bit)
    trained = sizes.adapter + sizes.head
    weights += (2 if half else 4) * sizes.adapter + 4 * sizes.head
    masters = 4 * sizes.adapter if half else 0
    return RoleMemory(weights, masters, 4 * trained, 8 * trained, quantised)


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
