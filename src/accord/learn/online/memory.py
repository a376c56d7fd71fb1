"""The memory that each role of online learning holds, before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from accord.lm.model import LanguageModel


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes that only this role holds while it trains; activations come on top.

    `masters` are the float32 weights beside bfloat16 ones, `moments` Adam's two.
    """

    weights: int = 0
    masters: int = 0
    gradients: int = 0
    moments: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.masters + self.gradients + self.moments


def memory_plan(roles: Mapping[str, LanguageModel | None]) -> dict[str, RoleMemory]:
    """The memory of each role; a parameter that several roles share counts for the first.

    Policy and critic are trained; in bf16 they have float32 masters except for what stays float32.
    """
    plan: dict[str, RoleMemory] = {}
    seen: set[int] = set()
    for role, lm in roles.items():
        if lm is None:
            continue
        weights = masters = gradients = moments = 0
        for name, parameter in lm.view_parameters().items():
            pointer = parameter.data_ptr()
            if pointer in seen:
                continue
            seen.add(pointer)
            size = parameter.element_size()
            if parameter.requires_grad and role in ("policy", "critic"):
                if lm.precision == "bf16" and not lm.stays_float32(name):
                    size = 2
                    masters += 4 * parameter.numel()
                gradients += 4 * parameter.numel()
                moments += 8 * parameter.numel()
            weights += size * parameter.numel()
        plan[role] = RoleMemory(weights, masters, gradients, moments)
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
