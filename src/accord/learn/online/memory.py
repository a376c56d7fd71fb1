"""The memory that each role of online learning holds, before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from accord.lm.loading.quantised import is_4bit_weight, weight_bytes
from accord.lm.model import LanguageModel
from accord.settings.memory import Optim

SMALL = 4096  # numbers of a parameter whose moments bitsandbytes does not hold in 8 bits


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes that only this role holds while it trains; activations come on top.

    `masters` are the float32 weights beside bfloat16 ones, `moments` Adam's two, `quantised` the
    weights in 4 bits with their scales.
    """

    weights: int = 0
    masters: int = 0
    gradients: int = 0
    moments: int = 0
    quantised: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.masters + self.gradients + self.moments + self.quantised


def moment_bytes(numbers: int, optim: Optim) -> int:
    """Bytes of AdamW's two moments of a parameter: in 8 bits with a float32 scale for each 256,
    unless the parameter is small (`loop.optimiser`)."""
    if optim == "adamw" or numbers < SMALL:
        return 8 * numbers
    return 2 * numbers + 8 * (-(-numbers // 256))


def memory_plan(
    roles: Mapping[str, LanguageModel | None], optim: Optim = "adamw"
) -> dict[str, RoleMemory]:
    """The memory of each role; a parameter that several roles share counts for the first.

    Policy and critic are trained; in bf16 they have float32 masters except for what stays float32.
    """
    plan: dict[str, RoleMemory] = {}
    seen: set[int] = set()
    for role, lm in roles.items():
        if lm is None:
            continue
        weights = masters = gradients = moments = quantised = 0
        for name, parameter in lm.view_parameters().items():
            pointer = parameter.data_ptr()
            if pointer in seen:
                continue
            seen.add(pointer)
            if is_4bit_weight(parameter):
                quantised += weight_bytes(parameter)
                continue
            size = parameter.element_size()
            if parameter.requires_grad and role in ("policy", "critic"):
                if lm.precision == "bf16" and not lm.stays_float32(name):
                    size = 2
                    masters += 4 * parameter.numel()
                gradients += 4 * parameter.numel()
                moments += moment_bytes(parameter.numel(), optim)
            weights += size * parameter.numel()
        plan[role] = RoleMemory(weights, masters, gradients, moments, quantised)
    return plan


def memory_report(plan: Mapping[str, RoleMemory]) -> list[str]:
    """The plan in lines, in megabytes (2²⁰ bytes)."""
    lines = []
    for role, memory in plan.items():
        parts = [
            f"{f.name} {getattr(memory, f.name) / 2**20:.1f}"
            for f in fields(memory)
            if getattr(memory, f.name)
        ]
        lines.append(f"memory of the {role}, MB: {', '.join(parts) or 'none of its own'}")
    total = sum(memory.total for memory in plan.values()) / 2**20
    return [*lines, f"memory of all roles, MB: {total:.1f}, and activations on top"]
