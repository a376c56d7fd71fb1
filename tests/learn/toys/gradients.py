"""Gradients of optimiser steps that move nothing, and how they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from accord.learn.loop.learner import Learner
from accord.lm.model import LanguageModel


class RecordingOptimiser:
    """An optimiser that records every step's gradients and learning rate, and moves nothing."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.param_groups: list[dict[str, Any]] = [{"lr": 0.0}]
        self.state: dict[Any, Any] = {}
        self.gradients: list[list[Tensor]] = []
        self.learning_rates: list[float] = []

    def step(self) -> None:
        self.gradients.append(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        )
        self.learning_rates.append(self.param_groups[0]["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def recording_learner(lm: LanguageModel) -> tuple[Learner, RecordingOptimiser]:
    """A learner of the model's trainable parameters, and the optimiser that records for it."""
    parameters = lm.trainable_parameters()
    optimiser = RecordingOptimiser(parameters.values())
    return Learner(parameters, optimiser), optimiser  # type: ignore[arg-type]


def assert_gradients_close(
    gradients: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    *,
    rtol: float,
    atol: float = 0.0,
) -> None:
    """By the norm of each parameter's difference: single cells may be near 0."""
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient is not None
        assert reference is not None
        distance, norm = float((gradient - reference).norm()), float(reference.norm())
        assert distance <= rtol * norm + atol, f"{distance} from a gradient of norm {norm}"
