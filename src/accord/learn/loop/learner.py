"""Parameters that learn, with their optimiser; in bf16 the model computes on copies of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from accord.learn.loop.optimiser import adamw
from accord.lm.model import LanguageModel
from accord.settings.training import TrainSettings

PART = 1 << 16


@dataclass
class Learner:
    """One set of trainable float32 parameters, by name, with its optimiser.

    `copies` are the model's own bfloat16 parameters that stand for some of them, by the same
    names. Their gradients, bfloat16 as the pass that made them, are added to the float32 ones at
    once: small updates and the sums over passes are not rounded, and no weight is cast in a
    forward pass. The float32 gradients keep their memory from step to step.
    """

    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    copies: Mapping[str, nn.Parameter] = field(default_factory=dict)

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the copies up to date with the parameters, after these changed."""
        for name, copy in self.copies.items():
            copy.copy_(self.parameters[name])

    def restore(self) -> None:
        """Give the model the float32 parameters themselves, to be saved."""
        for name, copy in self.copies.items():
            copy.data = self.parameters[name].data


def make_learner(
    lm: LanguageModel, settings: TrainSettings, learning_rate: float | None = None
) -> Learner:
    """A learner of the model's trainable parameters, which are float32.

    With precision=bf16 the model's own become bfloat16 copies, all but a scalar head, whose
    scores need more digits, and what the architecture keeps in float32.
    """
    parameters = dict(lm.trainable_parameters())
    copies: dict[str, nn.Parameter] = {}
    if lm.precision == "bf16":
        for name, parameter in list(parameters.items()):
            if lm.stays_float32(name):
                continue
            master = nn.Parameter(parameter.data)
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.register_post_accumulate_grad_hook(_gradient_to(master))
            copies[name], parameters[name] = parameter, master
    return Learner(parameters, adamw(parameters.values(), settings, learning_rate), copies)


def _gradient_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    room: list[Tensor] = []  # new memory of this size costs more than what is done with it

    def add(copy: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            room[:] = room or [torch.empty_like(master)]
            master.grad = room[0].copy_(copy.grad)
        else:  # types differ, and the sum would copy the whole; a part stays in the cache
            parts = zip(*(g.view(-1).split(PART) for g in (master.grad, copy.grad)), strict=True)
            for total, more in parts:
                total += more
        copy.grad = None

    return add
