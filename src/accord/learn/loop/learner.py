"""Trainable parameters with their optimiser; in bf16 the model computes on copies of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from accord.learn.loop.optimiser import adamw
from accord.lm.model import LanguageModel
from accord.lm.sharding.shards import is_divided, own_part
from accord.settings.training import TrainSettings

CHUNK = 1 << 16  # elements of a gradient that are added at a time, so that they stay in the cache


@dataclass
class Learner:
    """One set of trainable float32 parameters, by name, with its optimiser.

    `copies` are the model's own bfloat16 parameters of the same names, for which these are the
    float32 masters. A copy's gradient, bfloat16 as the pass computed it, is added to the master's
    at once: small updates and sums over passes are not rounded, and no forward pass casts a
    weight. The float32 gradients keep their memory from step to step.

    `shards` are the model's own parameters of the same names where the processes of the run divide
    them: `parameters` are then this process's parts, in the same memory.
    """

    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    copies: Mapping[str, nn.Parameter] = field(default_factory=dict)
    hooks: list[RemovableHandle] = field(default_factory=list)
    """Add the copies' gradients to the masters'."""
    shards: Mapping[str, nn.Parameter] = field(default_factory=dict)

    @torch.no_grad()
    def sync_copies(self) -> None:
        """Copy the parameters to their bfloat16 copies, after they changed."""
        for name, copy in self.copies.items():
            copy.copy_(self.parameters[name])

    def collect_gradients(self) -> None:
        """Take over the gradients of divided parameters, which their passes have summed."""
        for name, shard in self.shards.items():
            part = self.parameters[name]
            part.grad = None if shard.grad is None else own_part(shard.grad)
            shard.grad = None

    def whole_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of which every process has all, and computes a gradient of its own."""
        return {n: p for n, p in self.parameters.items() if n not in self.shards}

    def clear_gradients(self) -> None:
        """Clear the gradients of a step, whether it was taken or not."""
        self.optimiser.zero_grad(set_to_none=True)
        for parameter in (*self.copies.values(), *self.shards.values()):
            parameter.grad = None

    def use_masters(self) -> None:
        """Give the model the float32 parameters themselves, to be saved or trained further."""
        for name, copy in self.copies.items():
            copy.data = self.parameters[name].data
        for hook in self.hooks:
            hook.remove()


def make_learner(
    lm: LanguageModel, settings: TrainSettings, learning_rate: float | None = None
) -> Learner:
    """A learner of the model's trainable parameters, which are float32.

    With precision=bf16 the model's own become bfloat16 copies, except a scalar head, whose
    scores need more digits, and what the architecture keeps in float32. A sharded model computes
    on copies of its own: they are gathered in bfloat16.
    """
    parameters = dict(lm.trainable_parameters())
    if lm.sharded is not None:
        shards = {n: p for n, p in parameters.items() if is_divided(p)}
        parameters |= {n: nn.Parameter(own_part(p.detach())) for n, p in shards.items()}
        optimiser = adamw(parameters.values(), settings, learning_rate)
        return Learner(parameters, optimiser, shards=shards)
    copies: dict[str, nn.Parameter] = {}
    hooks: list[RemovableHandle] = []
    if lm.precision == "bf16":
        for name, parameter in list(parameters.items()):
            if lm.stays_float32(name):
                continue
            master = nn.Parameter(parameter.data)
            parameter.data = parameter.data.to(torch.bfloat16)
            hooks.append(parameter.register_post_accumulate_grad_hook(_accumulate_into(master)))
            copies[name], parameters[name] = parameter, master
    return Learner(parameters, adamw(parameters.values(), settings, learning_rate), copies, hooks)


def _accumulate_into(master: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that adds a copy's gradient to its master's and clears it."""
    buffer: list[Tensor] = []  # allocating this size again would cost more than the addition

    def accumulate(copy: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            buffer[:] = buffer or [torch.empty_like(master)]
            master.grad = buffer[0].copy_(copy.grad)
        else:  # adding two dtypes converts the whole addend; a chunk of it stays in the cache
            chunks = zip(*(g.view(-1).split(CHUNK) for g in (master.grad, copy.grad)), strict=True)
            for total, addend in chunks:
                total += addend
        copy.grad = None

    return accumulate
