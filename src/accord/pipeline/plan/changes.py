"""Changed settings of a stage: the largest value that fits, and what to change where none does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from accord.errors import DataError, RequestError, SettingsError
from accord.learn.online.methods import ONLINE
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.rows import ReadCache
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings
from accord.settings.recipe import StagePlan

FITTED = ("max_length", "per_device_train_batch_size", "max_tokens_per_forward", "lora.r")


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest value of a setting that fits, with its plan; `value` None where not even the
    smallest does. `limit` says what else bounds it, where memory does not."""

    key: str
    value: int | None
    stage: PlannedStage | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of settings, what it costs, and the peak with it."""

    change: str
    cost: str
    saved: int
    peak: int
    fits: bool


def changed(plan: StagePlan, **values: Any) -> StagePlan:
    """The stage with some settings changed, checked like any others."""
    settings: Any = plan.settings
    given = settings.model_dump(exclude_unset=True)
    return StagePlan(
        plan.name, plan.kind, type(settings).model_validate({**given, **values}), plan.method
    )


def fit(
    key: str,
    stage: PlannedStage,
    before: Sequence[StagePlan],
    machine: Machine,
    cache: ReadCache,
) -> Fit:
    """The largest value of one of FITTED with which a stage's peak fits; one more does not.

    Raises RequestError for another key, or one that the stage does not have.
    """
    if key not in FITTED:
        raise RequestError(f"--fit {key} is unknown. Give one of {', '.join(FITTED)}.")
    plan, memory = stage.plan, stage.memory
    if memory is None or stage.model is None or stage.facts is None:
        raise RequestError(f"--fit needs the memory of `{plan.name}`: {stage.problem}")
    unit, upper, limit = _range(key, stage, machine.count)

    def at(count: int) -> PlannedStage | None:
        try:
            return plan_stage(_with(plan, key, count * unit), before, machine, cache)
        except DataError:  # every row is longer
            return None

    def fits(count: int) -> bool:
        planned = at(count)
        if planned is None:
            return True
        return planned.memory is not None and planned.memory.peak <= machine.usable

    smallest = 8 if key == "max_length" else 1
    count = largest_that_fits(fits, smallest, max(smallest, upper // unit))
    if count is None:
        return Fit(key, None)
    planned = at(count)
    if planned is None:
        return Fit(key, None)
    return Fit(key, count * unit, planned, limit if count == upper // unit else None)


def largest_that_fits(fits: Callable[[int], bool], smallest: int, largest: int) -> int | None:
    """The largest number in a range that fits, by doubling and halving: it fits, and the next one
    does not. None where the smallest does not fit."""
    if not fits(smallest):
        return None
    low, high = smallest, smallest + 1
    while high <= largest and fits(high):
        low, high = high, 2 * high
    if high > largest:
        if low == largest or fits(largest):
            return largest
        high = largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _range(key: str, stage: PlannedStage, processes: int) -> tuple[int, int, str]:
    """The unit of a setting, its largest value and what bounds it there."""
    settings: Any = stage.plan.settings
    assert stage.facts is not None
    assert stage.model is not None
    config = stage.model.config.get_text_config()
    if key == "max_length":
        positions = getattr(config, "max_position_embeddings", None) or 1 << 20
        if stage.facts.unknown or isinstance(settings, OnlineSettings):
            return 1, int(positions), "the model has no more positions"
        return 1, int(positions), "the model has no more positions, or no row is longer"
    if key == "per_device_train_batch_size":
        unit = settings.num_generations if isinstance(settings, OnlineSettings) else 1
        used = -(-(stage.facts.used or 1024) // processes)
        return unit, used * unit, "there are no more rows"
    if key == "max_tokens_per_forward":
        return 1, sum(p + sum(r) for p, r in stage.facts.largest), "the largest pass has no more"
    if settings.lora is None:
        raise RequestError("--fit lora.r: the stage trains the whole model. Set lora.r first.")
    return 1, int(config.hidden_size), "a higher rank than the model's width adds nothing"


def _with(plan: StagePlan, key: str, value: int) -> StagePlan:
    if key != "lora.r":
        return changed(plan, **{key: value})
    settings: Any = plan.settings
    return changed(plan, lora={**settings.lora.model_dump(exclude_unset=True), "r": value})


def remedies(
    stage: PlannedStage, before: Sequence[StagePlan], machine: Machine, cache: ReadCache
) -> list[Remedy]:
    """What to change where a stage does not fit: first what changes nothing that is learned."""
    assert stage.memory is not None
    possible = []
    for change, cost, values in _changes(stage, machine.count):
        try:
            planned = plan_stage(changed(stage.plan, **values), before, machine, cache)
        except (SettingsError, DataError, ValueError):  # the method or the rows do not have it
            continue
        if planned.memory is None or planned.memory.peak >= stage.memory.peak:
            continue
        peak = planned.memory.peak
        saved = stage.memory.peak - peak
        possible.append(Remedy(change, cost, saved, peak, peak <= machine.usable))
    return possible


def _changes(stage: PlannedStage, processes: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    settings: Any = stage.plan.settings
    assert stage.facts is not None
    tokens = sum(p + sum(r) for p, r in stage.facts.largest)
    half = max(1, max(tokens // 2, stage.facts.longest))
    if half < tokens:
        yield (
            f"max_tokens_per_forward={half}",
            "nothing that is learned",
            {"max_tokens_per_forward": half},
        )
    if not settings.gradient_checkpointing:
        yield (
            "gradient_checkpointing=true",
            "about a third more time",
            {"gradient_checkpointing": True},
        )
    if processes > 1 and settings.sharding != "fsdp":
        yield "sharding=fsdp", "weights are exchanged in each pass", {"sharding": "fsdp"}
    if settings.precision == "fp32":
        yield "precision=bf16", "digits of the forward pass", {"precision": "bf16"}
    if settings.optim == "adamw":
        yield "optim=adamw_8bit", "digits of the optimiser's moments", {"optim": "adamw_8bit"}
    if settings.lora is None:
        yield (
            "lora.r=16",
            "adapters are trained, and not the weights",
            {"lora": {"r": 16}},
        )
    elif settings.quantization is None:
        yield (
            "quantization=nf4",
            "digits of the frozen base, and time",
            {"quantization": "nf4"},
        )
    if isinstance(settings, PpoSettings) and settings.critic in (None, "separate"):
        kind = "shared" if settings.lora is None else "adapter"
        yield f"critic={kind}", "a critic that shares the policy's base", {"critic": kind}
    if stage.plan.method not in ONLINE and settings.max_length >= 2 * 16:
        yield (
            f"max_length={settings.max_length // 2}",
            "longer rows are dropped or cut",
            {"max_length": settings.max_length // 2},
        )
