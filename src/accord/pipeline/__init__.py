"""Recipes from end to end, and single stages.

Its functions load torch at their first use: `accord data check` needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.pipeline.run import plan_recipe, run_recipe, run_stage

__all__ = ["plan_recipe", "run_recipe", "run_stage"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("accord.pipeline.run"), name)
    raise AttributeError(f"module 'accord.pipeline' has no attribute {name!r}")
