"""AdamW with moments in float32 or 8 bits, its state, its learning rate, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from accord.errors import SettingsError
from accord.lm.loading.quantised import require_bitsandbytes
from accord.settings.training import TrainSettings

Shape = Literal["constant", "linear", "cosine"]


def adamw(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, learning_rate: float | None = None
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) with the settings' numbers; only matrices decay.

    In 8 bits each moment is a code of 256 values times the largest of its block of 256 numbers
    (Dettmers et al. 2022); parameters of fewer than 4096 numbers keep float32 moments. Raises
    SettingsError where bitsandbytes is missing, or can't do what is asked.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    present = [g for g in groups if g["params"]]
    numbers: dict[str, Any] = {
        "lr": learning_rate or settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }
    if settings.optim == "adamw":
        return torch.optim.AdamW(present, **numbers, fused=True)
    _check_8bit([*matrices, *vectors], settings.optim)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kind = AdamW8bit if settings.optim == "adamw_8bit" else PagedAdamW8bit
    optimiser: torch.optim.Optimizer = kind(present, **numbers)
    return optimiser


def _check_8bit(parameters: Iterable[nn.Parameter], name: str) -> None:
    """Raise SettingsError where bitsandbytes can't hold the moments of these parameters."""
    require_bitsandbytes(f"optim={name}")
    for parameter in parameters:
        if hasattr(parameter, "device_mesh"):
            raise SettingsError(
                f"optim={name} holds moments in blocks of 256 numbers, which do not follow the "
                f"shards of a parameter. Use optim=adamw, whose moments are sharded."
            )
        if name.startswith("paged") and parameter.device.type != "cuda":
            raise SettingsError(
                f"optim={name} moves moments between a GPU's memory and the machine's, and the "
                f"model is on the {parameter.device.type}. Use optim=adamw_8bit."
            )


MOMENTS = ("step", "exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
"""What AdamW holds for a parameter: torch's names, and bitsandbytes' with the scales of blocks."""
_CODES = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""Tables that all 8-bit moments share, and bitsandbytes' names of them."""


def optimiser_state(optimiser: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What an optimiser holds for a parameter, by name: the step and the moments, not copied."""
    state = optimiser.state.get(parameter, {})
    return {k: torch.as_tensor(v).contiguous() for k, v in state.items() if k not in _CODES}


@torch.no_grad()
def restore_optimiser_state(
    optimiser: Any, parameter: nn.Parameter, saved: Mapping[str, Tensor]
) -> None:
    """Give an optimiser a copy of what `optimiser_state` returned, in this or another process;
    where that is nothing, the parameter starts without moments."""
    optimiser.state.pop(parameter, None)
    if not saved:
        return
    if "state1" not in saved:
        state = {k: v.to(parameter.device, copy=True) for k, v in saved.items()}
        optimiser.state[parameter] = state
        return
    group, index = next(
        (number, at)
        for number, each in enumerate(optimiser.param_groups)
        for at, other in enumerate(each["params"])
        if other is parameter
    )
    optimiser.init_state(optimiser.param_groups[group], parameter, group, index)  # may be paged
    state = optimiser.state[parameter]
    for key, value in saved.items():
        if key == "step":
            state[key] = int(value)
        else:
            state[key].copy_(value)


def learning_rate_factor(step: int, total: int, *, shape: Shape, warmup_ratio: float) -> float:
    """The learning rate of step (from 0) of `total`, as a factor of the peak.

    It rises linearly over the warm-up, then stays, falls linearly, or along half a cosine; the
    step after the last would have 0.
    """
    warmup = round(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    share = (step - warmup) / max(1, total - warmup)
    return 1.0 - share if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm of max_norm (0: never); returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(
        parameters, max_norm if max_norm > 0 else math.inf, error_if_nonfinite=False
    )
    return float(norm)


def squared_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The squared norm of the gradients."""
    return sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)


@torch.no_grad()
def scale_to_norm(parameters: Iterable[nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale gradients of that norm as `clip_gradients` does."""
    if max_norm <= 0 or not norm > max_norm:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(max_norm / (norm + 1e-6))
