"""A plan as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accord.pipeline.identity import describe_state
from accord.pipeline.plan.changes import Fit, Remedy
from accord.pipeline.plan.compare import Variant
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.measure import Measured
from accord.pipeline.plan.run import PlannedStage
from accord.settings.recipe import Recipe


def plan_json(recipe: Recipe, planned: Sequence[PlannedStage], machine: Machine) -> dict[str, Any]:
    """The plan with bytes as numbers; `fits` is null where it is not known."""
    return {
        "output_dir": recipe.output_dir,
        "seed": recipe.seed,
        "machine": {**asdict(machine), "usable": machine.usable},
        "stages": [
            {"name": plan.name, "kind": plan.kind, "state": describe_state(plan)}
            for plan in recipe.stages
        ],
        "training": [stage_json(stage, machine) for stage in planned],
    }


def stage_json(stage: PlannedStage, machine: Machine) -> dict[str, Any]:
    facts, memory = stage.facts, stage.memory
    settings: Any = stage.plan.settings
    result: dict[str, Any] = {
        "name": stage.plan.name,
        "method": stage.plan.method,
        "state": stage.state,
        "fits": stage.fits(machine),
        "problem": stage.problem,
        "processes": stage.processes,
        "divided": stage.processes > 1 and settings.sharding == "fsdp",
    }
    if facts is not None:
        result["rows"] = {
            "read": facts.rows,
            "used": facts.used,
            "tokenised": facts.sampled,
            "dropped": facts.dropped,
            "unknown": facts.unknown,
            "longest": facts.longest,
        }
        result |= {"steps": facts.steps, "tokens": facts.tokens, "passes": facts.passes}
        result["largest_pass"] = [list(shape) for shape in facts.largest]
    if memory is not None:
        result["memory"] = {
            "peak": memory.peak,
            "phase": memory.largest.name,
            "beside": memory.beside,
            "roles": {
                name: {**asdict(role), "total": role.total} for name, role in memory.roles.items()
            },
            "phases": [
                {"name": p.name, "total": p.total, "parts": dict(p.parts)} for p in memory.phases
            ],
        }
    return result


def extras_json(
    fitted: Fit | None,
    measured: Measured | None,
    variants: Sequence[Variant],
    changes: Mapping[str, Sequence[Remedy]],
) -> dict[str, Any]:
    """What else was asked, and by stage the changes that would make it fit."""
    content: dict[str, Any] = {
        "remedies": {name: [asdict(remedy) for remedy in table] for name, table in changes.items()}
    }
    if fitted is not None:
        content["fit"] = {"key": fitted.key, "value": fitted.value, "limit": fitted.limit}
        if fitted.stage is not None and fitted.stage.memory is not None:
            content["fit"]["peak"] = fitted.stage.memory.peak
    if measured is not None:
        content["measured"] = asdict(measured)
    if variants:
        content["compare"] = [
            {
                "name": v.name,
                "peak": v.memory.peak,
                "phase": v.memory.largest.name,
                "roles": {n: role.total for n, role in v.memory.roles.items()},
            }
            for v in variants
        ]
    return content
