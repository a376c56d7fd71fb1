"""Recipes from end to end, and single stages."""

from accord.pipeline.run import plan_recipe, run_recipe, run_stage

__all__ = ["plan_recipe", "run_recipe", "run_stage"]
