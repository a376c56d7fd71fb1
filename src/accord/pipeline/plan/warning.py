"""A warning before a stage trains what this machine can't hold."""

from __future__ import annotations

from typing import Any

from accord.errors import AccordError
from accord.learn.loop.in_memory import NOTHING
from accord.learn.loop.sharding import resolve_sharding
from accord.lm.load import base_and_adapter
from accord.lm.weightless import load_weightless
from accord.pipeline.plan.estimate import trained, trained_role
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import (
    Machine,
    available_memory,
    launched_processes,
    this_machine,
)
from accord.pipeline.plan.models import PlannedModel
from accord.pipeline.plan.text import gigabytes
from accord.settings.recipe import StagePlan


def memory_warning(plan: StagePlan) -> str | None:
    """What a training stage holds throughout, where that is more than the free memory.

    It needs neither rows nor a pass, so it takes no time, and it is a bound from below: activations
    and other models come on top. None where it fits, and where it is not known.
    """
    settings: Any = plan.settings
    cpu = settings.device == "cpu"
    try:
        count = launched_processes()
        machine = Machine("cpu", available_memory(), count) if cpu else this_machine(count)
        if count > 1:
            settings = resolve_sharding(settings, NOTHING, count=count)
            plan = StagePlan(plan.name, plan.kind, settings, plan.method)
        base, adapter = base_and_adapter(settings.model)
        config = load_weightless(base, trust_remote_code=settings.trust_remote_code).inner.config
        model = PlannedModel(settings.model, config, is_adapter=adapter is not None)
        inputs = Inputs(plan, (), model, machine)
        lm = trained(inputs)
        needed = trained_role(inputs, lm).total
    except AccordError:  # the stage itself says what is wrong
        return None
    free = machine.memory if machine.device == "cuda" else machine.memory // count
    if needed <= free:
        return None
    each = f" in each of {count} processes" if count > 1 else ""
    return (
        f"`{plan.name}` does not fit: weights, gradients and optimiser of its model alone take "
        f"{gigabytes(needed)}{each}, and {gigabytes(free)} are free. `accord plan` shows what to "
        f"change."
    )
