"""Divide a model's weights among the processes of a run, and gather them where they are needed.

torch's `fully_shard` keeps of every parameter the rows of one process (a DTensor). A decoder layer
is gathered when a pass reaches it and released behind it; gradients are summed over the processes
and divided in the same way. The embeddings, the last norm and the vocabulary head are one group,
gathered for a whole pass: the head is read outside of any module's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from accord.errors import SettingsError
from accord.lm.kernels.last_layer import LAYERS
from accord.lm.model import LanguageModel

T = TypeVar("T")


@dataclass
class Sharded:
    """The divided modules of one model, its root first; views on one base share it.

    Scalar heads, and what the architecture keeps in float32, are whole in every process. With
    `reshard` a layer is released behind its forward pass. `uses` counts the open contexts of
    `gathered`.
    """

    root: Any
    modules: Sequence[Any]
    compute_dtype: torch.dtype
    reshard: bool = True
    uses: int = 0

    def call(self, function: Callable[[], T]) -> T:
        """Call a function within the root's forward pass: its own parameters are gathered, and
        those of each layer as the layer is called. Its result has no tensor but in tuples."""
        result: T = self.root.accord_call(function)
        if not torch.is_grad_enabled() and not self.uses:
            self.root.reshard()  # no backward pass will, and the weights may change
        return result


def divide_weights(models: Sequence[LanguageModel], mesh: Any, *, reshard: bool = True) -> None:
    """Of the weights of models, and of all their views, keep this process's part, over the
    processes of a mesh. Each has loaded the same weights. `start_sharded` must follow.

    Without `reshard` a layer stays gathered from its forward to its backward pass: more memory,
    less exchange. Raises SettingsError for a model that can't be divided.
    """
    by_model: dict[int, list[LanguageModel]] = {}
    for lm in models:
        by_model.setdefault(id(lm.inner), []).append(lm)
    for views in by_model.values():
        sharded = _divide(views, mesh, reshard=reshard)
        for lm in views:
            lm.sharded = sharded


@torch.no_grad()
def start_sharded(models: Sequence[LanguageModel]) -> None:
    """Connect the processes that have divided these models; all of them call this together."""
    for sharded in _distinct(models):
        sharded.call(lambda: None)  # torch takes the module whose pass is first for the root


def _distinct(models: Sequence[LanguageModel | None]) -> list[Sharded]:
    by_id = {id(lm.sharded): lm.sharded for lm in models if lm is not None and lm.sharded}
    return list(by_id.values())


def _divide(views: Sequence[LanguageModel], mesh: Any, *, reshard: bool) -> Sharded:
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    lm = views[0]
    inner, layers = lm.inner, decoder_layers(lm)
    dtype, computes_in = _compute_dtype(views), lm.weights_dtype
    replicated = {
        parameter
        for view in views
        for name, parameter in view.view_parameters().items()
        if view.stays_float32(name)
    }
    options: dict[str, Any] = {
        "mesh": mesh,
        # The sums of gradients, and the weights that the optimiser steps, are float32.
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
        "ignored_params": replicated,
    }
    inner.accord_call = _call
    for layer in layers:
        fully_shard(layer, reshard_after_forward=reshard, **options)
    fully_shard(inner, reshard_after_forward=False, **options)
    register_fsdp_forward_method(inner, "accord_call")
    modules = [inner, *layers]
    for module in modules:  # a loss is divided by the whole step's weight already
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return Sharded(inner, modules, dtype or computes_in, reshard)


def _call(function: Callable[[], T]) -> T:
    return function()


def decoder_layers(lm: LanguageModel) -> list[nn.Module]:
    """The layers that are gathered each by itself. Raises SettingsError where there is no list."""
    backbone = lm.backbone
    for name in LAYERS:
        layers = getattr(backbone, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            return list(layers)
    raise SettingsError(
        f"sharding=fsdp divides a model by its decoder layers, and {lm.name}, a "
        f"{type(lm.inner).__name__}, has no list of them. Use sharding=none."
    )


def _compute_dtype(views: Sequence[LanguageModel]) -> torch.dtype | None:
    """The dtype that gathered weights have; None for that of the weights themselves.

    A base with an adapter merged into it stays float32 under bf16, as `precision_context` says.
    """
    lm = views[0]
    trains_all = any(p.requires_grad for p in _matrices(lm))
    if lm.precision == "bf16" and (trains_all or lm.weights_dtype == torch.bfloat16):
        return torch.bfloat16
    return None


def _matrices(lm: LanguageModel) -> Iterator[nn.Parameter]:
    for name, parameter in lm.backbone.named_parameters():
        if parameter.ndim > 1 and "lora_" not in name:
            yield parameter


@contextmanager
def gathered(*models: LanguageModel | None) -> Iterator[None]:
    """Within, each process has the models' whole weights, and may compute without the others: as
    many passes as it likes, without gradient. All processes enter it together.

    A model that is not sharded is left as it is.
    """
    distinct = _distinct(models)
    for sharded in distinct:
        sharded.uses += 1
        if sharded.uses == 1:
            for module in sharded.modules:
                module.set_reshard_after_forward(False, recurse=False)
                module.unshard()
    try:
        yield
    finally:
        for sharded in distinct:
            sharded.uses -= 1
            if sharded.uses == 0:
                for module in sharded.modules:
                    module.reshard()
                    keeps = module is sharded.root or not sharded.reshard
                    module.set_reshard_after_forward(not keeps, recurse=False)


def is_divided(parameter: Tensor) -> bool:
    """Whether each process has only a part of a parameter."""
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def own_part(parameter: Tensor) -> Tensor:
    """This process's rows of a divided tensor, in the same memory; another one itself."""
    return parameter.to_local() if is_divided(parameter) else parameter  # type: ignore[attr-defined]


def whole(parameter: Tensor) -> Tensor:
    """All of a tensor, detached; of a divided one a copy, for which all processes call this."""
    detached = parameter.detach()
    return detached.full_tensor() if is_divided(detached) else detached  # type: ignore[attr-defined]
