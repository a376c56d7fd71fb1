"""The settings of low-rank adapters."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from accord.settings.base import Settings

LORA_RATE_FACTOR = 10
"""The default learning rate with LoRA, in multiples of that of full fine-tuning."""


def peak_learning_rate(default: float, of: str = "") -> Any:
    """The `learning_rate` field of a method whose default is `default` in full fine-tuning."""
    description = f"Peak learning rate{of}; the default is ten times this with `lora`."
    return Field(default, gt=0, description=description)


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) instead of full fine-tuning."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale; the update is multiplied by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the linear layers to adapt, or `all-linear`."
    )
    continue_adapter: bool = Field(
        False,
        description="Where `model` is an adapter, continue to train this adapter on the same base; "
        "by default it is merged into the base, and a new adapter is added. `r`, `alpha` and "
        "`target_modules` are then the adapter's; other values than these and the defaults are "
        "refused.",
    )
