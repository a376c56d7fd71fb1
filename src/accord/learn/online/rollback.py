"""Weights and moments to go back to: when the KL passes its limit, or a loss is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from accord.learn.loop.checkpoints import TrainState, put_tensors, state_tensors
from accord.learn.loop.processes import processes
from accord.runs import storage_errors


@torch.no_grad()
def take_snapshot(state: TrainState, where: Literal["memory", "disk"], folder: Path | None) -> None:
    """Keep the state's weights and moments as they are now, instead of those kept before.

    On disk they are a file in the folder, each process's own, mapped: it takes memory only while
    it is read. Its name is removed at once, so that nothing is left of it when the process ends,
    however it ends.
    """
    state.snapshot = {}
    if where == "memory" or folder is None:
        state.snapshot = {n: t.to("cpu", copy=True) for n, t in state_tensors(state).items()}
        return
    path = folder / f"start-{processes().rank}.safetensors"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_tensors(state), path)
        state.snapshot = load_file(path)
        path.unlink()


def restore_snapshot(state: TrainState) -> None:
    """Bring weights and moments to those that were kept; gradients are cleared."""
    put_tensors(state, state.snapshot)
    clear_gradients(state)


def clear_gradients(state: TrainState) -> None:
    """Clear what was added up of a step that is not taken."""
    for learner in state.learners.values():
        learner.optimiser.zero_grad(set_to_none=True)
        for copy in learner.copies.values():
            copy.grad = None
