"""What the estimate of a stage starts from: its settings, its model, the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import PlannedModel, find_model
from accord.settings.recipe import StagePlan


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an estimate starts from; `stages` are those before this one."""

    plan: StagePlan
    stages: Sequence[StagePlan]
    model: PlannedModel
    machine: Machine

    @property
    def settings(self) -> Any:
        return self.plan.settings

    @property
    def half(self) -> bool:
        return bool(self.settings.precision == "bf16")

    @property
    def four_bit(self) -> bool:
        """Whether the base is held in 4 bits."""
        return self.settings.quantization is not None

    @property
    def merged(self) -> bool:
        """Whether an adapter is merged into the base before training."""
        lora = self.settings.lora
        return self.model.is_adapter and not (lora is not None and lora.continue_adapter)

    @property
    def parts(self) -> int:
        """How many processes divide the models; 1 where each has them whole."""
        return self.machine.count if self.settings.sharding == "fsdp" else 1

    @property
    def undivided(self) -> Inputs:
        """The same in one process, which has what each has while the models are loaded."""
        return replace(self, machine=replace(self.machine, count=1))

    @property
    def retains_gradients(self) -> bool:
        """Whether the memory of gradients is there throughout: that of the float32 ones of copies
        in bf16, which a divided model does not have."""
        return self.half and self.parts == 1

    def find(self, path: str) -> PlannedModel:
        return find_model(path, self.stages, remote_code=self.settings.trust_remote_code)
