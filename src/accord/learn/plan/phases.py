"""The phases of a training step, and the memory at the peak of each.

A run's peak is that of its largest phase, and not the sum of all that it ever holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accord.learn.online.memory import RoleMemory
from accord.learn.plan.passes import PassMemory

# Set on the smallest cases of benchmarks/plan.py alone: a toy with SFT, full and under LoRA.
WORKSPACE = 90 << 20
"""Bytes of a process beside its tensors: buffers of matrix products, modules that training
imports, the rows as text and tokens."""
FRAGMENTS = 0.05
"""Share of the activations that the allocator can't give to the next tensor."""
ADAPTER_FRAGMENTS = 1.4
"""The same on a CPU under LoRA. Every adapted layer makes and frees tensors of its output's size
among those that are saved, and glibc's aligned allocation does not find a free block of exactly
the size that it is asked for: the process grows instead. With MALLOC_MMAP_THRESHOLD_=262144 in the
environment these blocks go back to the system, and the share is about 0."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes of a phase by what they are for, beside what the roles hold throughout."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What each role holds, and the phases; `tokens` are those of the largest pass."""

    roles: Mapping[str, RoleMemory]
    phases: Sequence[Phase]
    tokens: int = 0
    fragments: float = FRAGMENTS

    @property
    def largest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak(self) -> int:
        """Bytes of tensors at the run's peak, with what the allocator loses."""
        largest = self.largest
        moving = sum(n for name, n in largest.parts.items() if name in MOVING)
        return largest.total + WORKSPACE + int(self.fragments * moving)


WEIGHTS, ACTIVATIONS, GRADIENTS, MOMENTS = "weights", "activations", "gradients", "optimiser"
KEYS_VALUES, LOGITS, COPIES = "keys and values", "logits", "copies"
MOVING = (ACTIVATIONS,)


def lasting(roles: Mapping[str, RoleMemory], *, moments: bool) -> dict[str, int]:
    """What all roles hold throughout a step: weights with masters, and moments from the end of the
    first step on."""
    parts = {WEIGHTS: sum(r.weights + r.masters for r in roles.values())}
    if moments:
        parts[MOMENTS] = sum(r.moments for r in roles.values())
    return parts


def pass_phase(
    name: str,
    roles: Mapping[str, RoleMemory],
    memory: PassMemory,
    *,
    moments: bool,
    gradients: int = 0,
    cast: int = 0,
) -> Phase:
    """A forward and backward pass beside `gradients` of earlier passes, with `cast` bytes of
    weights in another precision.

    Where there were none, the gradients come while the activations go: what the pass leaves of
    them is part of its peak.
    """
    return Phase(
        name,
        {
            **lasting(roles, moments=moments),
            GRADIENTS: gradients,
            ACTIVATIONS: memory.peak,
            COPIES: cast,
        },
    )


def optimiser_phase(roles: Mapping[str, RoleMemory]) -> Phase:
    """The optimiser's step: all gradients and moments, and no activations."""
    gradients = sum(r.gradients for r in roles.values())
    return Phase("optimiser step", {**lasting(roles, moments=True), GRADIENTS: gradients})


def saving_phase(roles: Mapping[str, RoleMemory], converted: int) -> Phase:
    """Writing the model: its weights once more, where they are saved in another precision."""
    return Phase("saving the model", {**lasting(roles, moments=True), COPIES: converted})


def loading_phase(roles: Mapping[str, RoleMemory], files: int) -> Phase:
    """Reading the weights: the files are mapped into memory beside what is made of them.

    bf16 copies and masters come after it.
    """
    weights = sum(r.weights for r in roles.values())
    return Phase("loading", {WEIGHTS: weights, COPIES: files})
