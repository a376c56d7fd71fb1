"""The phases of a training step, and the memory at the peak of each.

A run's peak is that of its largest phase, and not the sum of all that it ever holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accord.learn.online.memory import RoleMemory
from accord.learn.plan.passes import PassMemory

# Measured on a CPU with glibc: see docs/plan.md for the cases that they were set on.
WORKSPACE = 60 << 20
"""Bytes of a process beside its tensors: buffers of matrix products, modules that training
imports, the rows as text and tokens."""
DIVIDING = 30 << 20
"""Bytes beside these of a process that divides a model with others, on a CPU: 21 to 61 MB were
missing in two runs each of two and of four processes."""
TOKENIZER_ENTRY = 1200
"""Bytes of a tokenizer for each entry of its vocabulary, measured on two: 44 MB for 49,152 entries,
318 MB for 262,144."""
PRODUCT = 640 << 10
"""Bytes of a matrix product in bf16 that oneDNN has compiled for one shape on a CPU: 0.60 to
0.65 MB in six runs. Packed passes have other shapes in every step, so they become more."""
COMPILED_PRODUCTS = 1024
"""How many of them oneDNN retains, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY says otherwise."""
FRAGMENTS = 0.45
"""Share of the activations that the process holds beside them: blocks that are free, and of
another size than the next tensor's. This one is for bf16."""
FLOAT_FRAGMENTS = 0.5
"""The same in float32: 0.34 to 0.95 after six steps of eight toys."""
ADAPTER_FRAGMENTS = 1.2
"""The same under LoRA in float32, whose adapted layers make and free more tensors among those that
are saved. A run with MALLOC_MMAP_THRESHOLD_=262144 in the environment held about half as much, and
nothing of this share."""
RECOMPUTED_FRAGMENTS = 0.9
"""The same in float32 where layers are computed again, of far fewer activations: 0.8 and 2.6 in two
toys."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a process holds beside its live tensors: bytes, and a share of all activations."""

    workspace: int = WORKSPACE
    fragments: float = FRAGMENTS


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
    allocation: Allocation = Allocation()

    @property
    def largest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def beside(self) -> int:
        """Bytes that the process holds beside its tensors. Blocks that one phase has freed are
        there in the next."""
        moving = sum(
            n for phase in self.phases for name, n in phase.parts.items() if name in MOVING
        )
        return self.allocation.workspace + int(self.allocation.fragments * moving)

    @property
    def peak(self) -> int:
        """Bytes at the run's peak: the tensors of the largest phase, and `beside`."""
        return self.largest.total + self.beside


WEIGHTS, ACTIVATIONS, GRADIENTS, MOMENTS = "weights", "activations", "gradients", "optimiser"
FOUR_BIT = "4-bit weights"
KEYS_VALUES, LOGITS, COPIES = "keys and values", "logits", "copies"
GATHERED, UNDIVIDED = "gathered weights", "gradients to be divided"
MOVING = (ACTIVATIONS,)


def lasting(roles: Mapping[str, RoleMemory], *, moments: bool) -> dict[str, int]:
    """What all roles hold throughout a step: weights with masters, and moments from the end of the
    first step on."""
    parts = {WEIGHTS: sum(r.weights + r.masters for r in roles.values()), **_quantised(roles)}
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


def divided_phase(
    name: str,
    roles: Mapping[str, RoleMemory],
    parts: Mapping[str, int],
    *,
    moments: bool,
    gradients: int = 0,
    cast: int = 0,
) -> Phase:
    """A pass of a model that the processes divide, with the parts of `ShardExchange.backward`,
    beside `gradients` of other models."""
    gradients += parts.get(GRADIENTS, 0)
    return Phase(
        name,
        {**lasting(roles, moments=moments), **parts, GRADIENTS: gradients, COPIES: cast},
    )


def optimiser_phase(roles: Mapping[str, RoleMemory]) -> Phase:
    """The optimiser's step: all gradients and moments, and no activations."""
    gradients = sum(r.gradients for r in roles.values())
    return Phase("optimiser step", {**lasting(roles, moments=True), GRADIENTS: gradients})


def saving_phase(roles: Mapping[str, RoleMemory], converted: int) -> Phase:
    """Writing the model: its weights once more, where they are saved in another precision."""
    return Phase("saving the model", {**lasting(roles, moments=True), COPIES: converted})


def loading_whole_phase(roles: Mapping[str, RoleMemory], files: int) -> Phase:
    """Reading models that will be divided, which each process first has whole.

    What will be trained is float32 then, without copies in bf16.
    """
    weights = sum(r.weights + r.masters // 2 for r in roles.values())
    return Phase("loading, before the division", {WEIGHTS: weights, COPIES: files})


def loading_phase(roles: Mapping[str, RoleMemory], files: int) -> Phase:
    """Reading the weights: the files are mapped into memory beside what is made of them.

    bf16 copies and masters come after it.
    """
    weights = sum(r.weights for r in roles.values())
    return Phase("loading", {WEIGHTS: weights, **_quantised(roles), COPIES: files})


def _quantised(roles: Mapping[str, RoleMemory]) -> dict[str, int]:
    count = sum(r.quantised for r in roles.values())
    return {FOUR_BIT: count} if count else {}
