"""Plans the training stages of a recipe on a machine; nothing is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.errors import AccordError, ModelError
from accord.learn.loop.in_memory import NOTHING
from accord.learn.loop.sharding import resolve_sharding
from accord.learn.online.methods import ONLINE
from accord.learn.plan.phases import StageMemory
from accord.lm.loading.quantised import refuse_merging
from accord.pipeline.identity import describe_state
from accord.pipeline.plan.estimate import offline_memory
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import PlannedModel, find_model
from accord.pipeline.plan.online import online_memory
from accord.pipeline.plan.rows import ReadCache, RowFacts, read_rows
from accord.pipeline.stages.kinds import STAGES
from accord.settings.recipe import Recipe, StagePlan


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A training stage with what is known of its rows and memory, or `problem`: why nothing is.
    `processes` take its steps, and `sharing` says whether they divide the models."""

    plan: StagePlan
    state: str
    model: PlannedModel | None = None
    facts: RowFacts | None = None
    memory: StageMemory | None = None
    problem: str | None = None
    processes: int = 1
    sharing: str = ""

    def fits(self, machine: Machine) -> bool | None:
        """Whether the peak fits; None where it is not known."""
        if self.memory is None:
            return None
        if self.memory.peak <= machine.usable:
            return True
        # Rows that are not there yet are assumed to be as long as allowed.
        return None if self.facts is not None and self.facts.unknown else False


def plan_stages(
    recipe: Recipe, machine: Machine, cache: ReadCache | None = None
) -> list[PlannedStage]:
    """The training stages of a recipe, each with its rows and memory.

    Errors of a stage are part of the result, where an earlier stage may still mend them; of a
    recipe with one stage they are raised.
    """
    planned: list[PlannedStage] = []
    for plan, before in training_stages(recipe):
        try:
            planned.append(plan_stage(plan, before, machine, cache))
        except AccordError as error:
            if len(recipe.stages) == 1:
                raise
            planned.append(PlannedStage(plan, describe_state(plan), problem=str(error)))
    return planned


def plan_stage(
    plan: StagePlan,
    before: Sequence[StagePlan],
    machine: Machine,
    cache: ReadCache | None = None,
) -> PlannedStage:
    """One training stage; `before` are the stages whose outputs it may read."""
    settings: Any = plan.settings
    model = find_model(settings.model, before, remote_code=settings.trust_remote_code)
    asked = settings.sharding
    settings = _within_positions(settings, model.config)
    if machine.count > 1:
        settings = resolve_sharding(settings, NOTHING, count=machine.count)
    elif asked == "fsdp":
        settings = settings.model_copy(update={"sharding": "none"})
    plan = StagePlan(plan.name, plan.kind, settings, plan.method)
    facts = read_rows(
        plan, model.tokenizer, model.eos_ids, before, machine.count, {} if cache is None else cache
    )
    inputs = Inputs(plan, before, model, machine)
    if inputs.merged and inputs.four_bit:
        raise refuse_merging(settings.model)
    problem, memory = None, None
    try:
        memory = (online_memory if plan.method in ONLINE else offline_memory)(inputs, facts)
    except ModelError as error:  # of an architecture that looks at its numbers
        problem = str(error)
    sharing = _sharing(machine, settings.sharding, asked)
    return PlannedStage(
        plan, describe_state(plan), model, facts, memory, problem, machine.count, sharing
    )


def _sharing(machine: Machine, sharding: str | None, asked: str | None) -> str:
    """How the processes share the models and the work, in a sentence."""
    count = machine.count
    if count == 1 and asked == "fsdp":
        return (
            "One process, which has the whole models: sharding=fsdp divides nothing. `--gpus "
            "4x80GB` or `--processes 4` plans for several."
        )
    if count == 1:
        return "One process, which has the whole models."
    uncounted = " What NCCL holds is not counted." if machine.device == "cuda" else ""
    if sharding == "fsdp":
        return (
            f"{count} processes, which divide the models (sharding=fsdp). The memory is that of "
            f"one process, with its share of the rows.{uncounted}"
        )
    return (
        f"{count} processes, each with the whole models (sharding=none). The memory is that of one "
        f"process, with its share of the rows.{uncounted}"
    )


def training_stages(recipe: Recipe) -> list[tuple[StagePlan, list[StagePlan]]]:
    """The stages that train, each with the stages before it; of rounds the first one's."""
    trained: list[tuple[StagePlan, list[StagePlan]]] = []
    before: list[StagePlan] = []
    for plan in recipe.stages:
        if plan.kind == "train":
            trained.append((plan, list(before)))
        elif plan.kind == "iterate":
            inner = list(STAGES[plan.kind].inner_stages(plan))
            trains = [i for i, stage in enumerate(inner) if stage.kind == "train"]
            if trains:
                stage = inner[trains[0]]
                named = StagePlan(
                    f"{plan.name}/{stage.name}", "train", stage.settings, stage.method
                )
                trained.append((named, [*before, *inner[: trains[0]]]))
        before.append(plan)
    return trained


def _within_positions(settings: Any, config: Any) -> Any:
    """The settings with `max_length` within the model's positions, as training caps it."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < settings.max_length:
        return settings.model_copy(update={"max_length": limit})
    return settings
