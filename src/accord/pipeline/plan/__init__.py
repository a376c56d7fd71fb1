"""`accord plan`: what a recipe or a stage would do and need, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accord.pipeline.plan.ask import PlanQuestion
    from accord.settings.recipe import Recipe


def print_plan(recipe: Recipe, question: PlanQuestion) -> bool:
    """Print the plan of a recipe; False where a stage does not fit.

    Raises RequestError where the machine, a model or a data set can't be read.
    """
    from accord.pipeline.plan.terminal import answer

    return answer(recipe, question)
