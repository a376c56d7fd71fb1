"""The state of a training run, and its tensors by name: all that a checkpoint has to save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from accord.learn.loop.best import Best
from accord.learn.loop.learner import Learner
from accord.learn.loop.optimiser import MOMENTS, optimiser_state, restore_optimiser_state
from accord.learn.loop.processes import processes

P = TypeVar("P", bound=Any)


@dataclass(slots=True)
class FitState:
    """What an offline run counts: tokens in its forward passes so far."""

    num_tokens: int = 0


@dataclass
class TrainState(Generic[P]):
    """Learners by name, optimiser steps (or online iterations) done, and the method's `progress`:
    a dataclass of plain numbers, such as FitState, which a checkpoint writes as JSON."""

    learners: dict[str, Learner]
    progress: P
    step: int = 0
    snapshot: dict[str, Tensor] = field(default_factory=dict)
    """Weights and moments that a rollback restores, where a method takes a snapshot."""
    best: Best = field(default_factory=Best)
    """The best evaluation so far, where early stopping or the best model needs it."""
    step_processes: int = 0
    """The processes with which the run began, for which its steps have rows; 0: those it has."""

    @property
    def begun_with(self) -> int:
        """The processes for which a step has rows: those that the run began with."""
        return self.step_processes or processes().world_size

    @property
    def is_sharded(self) -> bool:
        """Whether the processes divide a model, and so take every pass together."""
        return any(learner.shards for learner in self.learners.values())


def state_tensors(state: TrainState[Any]) -> dict[str, Tensor]:
    """All trainable weights and their optimiser's moments, by name; not copied."""
    tensors: dict[str, Tensor] = {}
    for name, learner in state.learners.items():
        for parameter_name, parameter in learner.parameters.items():
            tensors[f"{name}/weight/{parameter_name}"] = parameter.detach().contiguous()
            for key, value in optimiser_state(learner.optimiser, parameter).items():
                tensors[f"{name}/{key}/{parameter_name}"] = value
    return tensors


def restore_tensors(state: TrainState[Any], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors that `state_tensors` returned, in this or another process, into the state."""
    for name, learner in state.learners.items():
        for parameter_name, parameter in learner.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"{name}/weight/{parameter_name}"])
            moments = {
                key: tensors[f"{name}/{key}/{parameter_name}"]
                for key in MOMENTS
                if f"{name}/{key}/{parameter_name}" in tensors
            }
            restore_optimiser_state(learner.optimiser, parameter, moments)
        learner.sync_copies()


def restore_weights(state: TrainState[Any], tensors: Mapping[str, Tensor]) -> None:
    """Copy the weights alone, of tensors that `state_tensors` returned, into the state."""
    for name, learner in state.learners.items():
        for parameter_name, parameter in learner.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"{name}/weight/{parameter_name}"])
        learner.sync_copies()
