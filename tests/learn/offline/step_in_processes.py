"""One step of each method on unequal rows: its loss and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from accord.learn.loop.fit import fit
from accord.learn.loop.objective import Reference
from accord.learn.loop.processes import processes
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import stored_log_probs
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.packing import PromptGroup
from accord.settings.stage_kinds import METHOD_SETTINGS
from tests.learn.toys.fit import GROUPS
from tests.learn.toys.gradients import recording_learner
from tests.learn.toys.models import causal_lm, lm_for_method
from tests.learn.toys.settings import REQUIRED


def compute_step(name: str, micro_batch_size: int, accumulation: int) -> dict[str, Tensor]:
    """Gradients by parameter, and `loss`, of a step over all rows."""
    procs, method = processes(), METHODS[name]
    settings: Any = METHOD_SETTINGS[name](
        **REQUIRED,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0,
    )
    lm, reference_lm = lm_for_method(name), causal_lm(seed=5)
    groups = GROUPS
    if name == "kto":
        groups = [replace(g, labels=tuple(rank == 0 for rank in g.ranks)) for g in GROUPS]

    def reference(rows: Sequence[PromptGroup]) -> Reference:
        return stored_log_probs(compute_log_probs(reference_lm, rows, batch_size=3, procs=procs))

    learner, optimiser = recording_learner(lm)
    objective = method.objective(lm, settings, groups, reference)
    state = TrainState({"model": learner}, FitState())
    (result,) = fit(state, groups, objective, method.weight, settings, lm.device, procs)
    tensors = dict(zip(learner.parameters, optimiser.gradients[0], strict=True))
    return tensors | {"loss": torch.tensor(result.metrics["loss"], dtype=torch.float64)}


def save_steps(micro_batch_size: int, accumulation: int, folder: Path) -> None:
    """A step of each method in this process, one of several, of which the main one writes."""
    for name in METHODS:
        step = compute_step(name, micro_batch_size, accumulation)
        if processes().is_main:
            save_file(step, folder / f"{name}.safetensors")
