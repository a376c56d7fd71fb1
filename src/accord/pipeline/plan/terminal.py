"""Answers the questions to a plan, in the terminal or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from accord.errors import RequestError
from accord.pipeline.identity import describe_state
from accord.pipeline.plan.ask import PlanQuestion
from accord.pipeline.plan.changes import Fit, Remedy, fit, remedies
from accord.pipeline.plan.compare import Variant, compare
from accord.pipeline.plan.extras import comparison_table, fit_line, measured_lines, remedy_table
from accord.pipeline.plan.machine import Machine, parse_machine
from accord.pipeline.plan.measure import Measured, measure_stage
from accord.pipeline.plan.record import extras_json, plan_json
from accord.pipeline.plan.rows import ReadCache
from accord.pipeline.plan.run import PlannedStage, plan_stages, training_stages
from accord.pipeline.plan.text import overview, render_stage
from accord.pipeline.run import plan_recipe
from accord.settings.recipe import Recipe, StagePlan

WIDTH = 100  # columns where the output is no terminal


def answer(recipe: Recipe, question: PlanQuestion) -> bool:
    """Print the plan and what else is asked; False where a stage does not fit."""
    machine = parse_machine(question.gpus, question.memory, question.processes)
    cache: ReadCache = {}
    planned = plan_stages(recipe, machine, cache)
    asked, before = _asked_stage(recipe, planned, question)
    fitted: Fit | None = None
    measured: Measured | None = None
    variants: list[Variant] = []
    if asked is not None:
        fitted = fit(question.fit, asked, before, machine, cache) if question.fit else None
        measured = measure_stage(asked, machine) if question.measure else None
        variants = compare(asked, machine) if question.compare else []
    changes = _remedies(recipe, planned, machine, cache)
    if question.as_json:
        content = plan_json(recipe, planned, machine)
        content |= extras_json(fitted, measured, variants, changes)
        print(json.dumps(content, indent=2))
    else:
        console = _console()
        if question.settings:
            console.print(plan_recipe(recipe), end="\n\n", markup=False, soft_wrap=True)
        _print_stages(console, recipe, planned, machine)
        for name, table in changes.items():
            console.print(remedy_table(name, table))
        if variants:
            console.print(comparison_table(variants))
        if asked is not None and measured is not None:
            for line in measured_lines(asked, measured, machine):
                console.print(Text(line))
        if fitted is not None:
            console.print(Text(fit_line(fitted, machine), style="bold"))
    return all(stage.fits(machine) is not False for stage in planned)


def _asked_stage(
    recipe: Recipe, planned: Sequence[PlannedStage], question: PlanQuestion
) -> tuple[PlannedStage | None, list[StagePlan]]:
    """The stage that --fit, --measure and --compare are about, and the stages before it."""
    if not (question.fit or question.measure or question.compare or question.stage):
        return None, []
    stages = {stage.plan.name: stage for stage in planned}
    if not stages:
        raise RequestError(f"No stage of {recipe.source} trains a model: there is nothing to fit.")
    name = question.stage or next(reversed(stages))
    if name not in stages:
        raise RequestError(f"--stage {name} trains no model. Give one of {', '.join(stages)}.")
    before = next(before for plan, before in training_stages(recipe) if plan.name == name)
    return stages[name], before


def _remedies(
    recipe: Recipe, planned: Sequence[PlannedStage], machine: Machine, cache: ReadCache
) -> dict[str, list[Remedy]]:
    """By stage, what to change where it does not fit."""
    before = {plan.name: stages for plan, stages in training_stages(recipe)}
    return {
        stage.plan.name: remedies(stage, before[stage.plan.name], machine, cache)
        for stage in planned
        if stage.fits(machine) is False
    }


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _print_stages(
    console: Console, recipe: Recipe, planned: Sequence[PlannedStage], machine: Machine
) -> None:
    """Each training stage in full, the other stages in a line each, and at the end the overview."""
    for stage in planned:
        for part in render_stage(stage):
            console.print(part)
        console.print()
    if len(recipe.stages) > 1:
        console.print("The stages in order:")
        for plan in recipe.stages:
            kind: Any = plan.kind if plan.method is None else f"{plan.kind} {plan.method}"
            console.print(Text(f"  {plan.name} ({kind}): {describe_state(plan)}"))
        console.print()
    if planned:
        console.print(overview(planned, machine))
    else:
        console.print("No stage trains a model.")
