"""The settings of low-rank adapters."""

from __future__ import annotations

from pydantic import Field

from accord.settings.base import Settings


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
