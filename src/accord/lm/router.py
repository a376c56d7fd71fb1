"""The router's loss of a mixture of experts, where its configuration asks for one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch
from accord.objectives.router import load_balancing_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RouterLoss:
    """A model's load-balancing loss: its coefficient in the model's own loss, and the number of
    experts that a token is sent to."""

    coef: float
    top_k: int


@dataclass(slots=True)
class RouterRecord:
    """The router's loss of the forward passes over one batch, while it is recorded."""

    router: RouterLoss
    batch: PackedBatch
    losses: list[Tensor] = field(default_factory=list)

    def add(self, batch: PackedBatch, router_logits: Any, *, packed: bool) -> None:
        """Record a pass over this batch, of flat tokens (`packed`) or of padded rows."""
        if batch is not self.batch:
            return
        weights = _packed_weights(batch) if packed else _row_weights(batch)
        logits = [layer.reshape(-1, layer.shape[-1]) for layer in router_logits]
        self.losses.append(
            load_balancing_loss(logits, weights.to(logits[0].device), top_k=self.router.top_k)
        )


@contextmanager
def recorded_router(
    lm: LanguageModel, router: RouterLoss, batch: PackedBatch
) -> Iterator[RouterRecord]:
    """A context in which the model's passes over a batch record the router's loss."""
    lm.router_record = record = RouterRecord(router, batch)
    try:
        yield record
    finally:
        lm.router_record = None


def asks_router_loss(lm: LanguageModel) -> bool:
    """Whether a model's configuration asks for the router's loss."""
    config = lm.inner.config.get_text_config()
    coef = getattr(config, "router_aux_loss_coef", None)
    return bool(getattr(config, "output_router_logits", False) and coef)


@torch.no_grad()
def router_loss(lm: LanguageModel, *, adds: bool = True) -> RouterLoss | None:
    """The router's loss that a model's configuration asks for; None where it asks for none.

    Compared with the model's own value on a row of tokens; where that is computed otherwise, or
    the method does not add it (`adds` False), the log says that it is left out.
    """
    inner, config = lm.inner, lm.inner.config.get_text_config()
    coef = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
    if not asks_router_loss(lm):
        if coef and hasattr(config, "output_router_logits"):
            _log_not_asked(lm.name, coef)
        return None
    router = RouterLoss(coef, int(getattr(config, "num_experts_per_tok", 0) or 0))
    if adds and _is_own(lm, inner, router):
        return router
    log.warning(
        "%s asks for its router's loss (output_router_logits, router_aux_loss_coef=%g), and it is "
        "left out: %s. The experts' load may drift apart in a long run.",
        lm.name,
        coef,
        f"a {type(inner).__name__} computes it in a way of its own"
        if adds
        else "online methods do not add it",
    )
    return None


@cache
def _log_not_asked(name: str, coef: float) -> None:
    log.info(
        "%s is a mixture of experts whose configuration has router_aux_loss_coef=%g but not "
        "output_router_logits=true, so the router's loss is not added, as in transformers.",
        name,
        coef,
    )


def _is_own(lm: LanguageModel, inner: Any, router: RouterLoss) -> bool:
    vocabulary = int(inner.config.get_text_config().vocab_size)
    ids = torch.tensor([[(5 * i + 2) % vocabulary for i in range(16)]], device=lm.device)
    try:
        with lm.precision_context():
            out = inner(input_ids=ids, use_cache=False, output_router_logits=True)
        logits = [layer.reshape(-1, layer.shape[-1]) for layer in out.router_logits]
        ours = load_balancing_loss(logits, torch.ones(ids.shape[1]), top_k=router.top_k)
        return bool(torch.allclose(ours, out.aux_loss.float(), rtol=1e-2))
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
        return False


def _packed_weights(batch: PackedBatch) -> Tensor:
    """How many plain rows hold each flat token (T,): a prompt's are in one for each response."""
    weights: list[float] = []
    for group in batch.groups:
        weights += [float(len(group.responses))] * len(group.prompt)
        weights += [1.0] * sum(map(len, group.responses))
    return torch.tensor(weights)


def _row_weights(batch: PackedBatch) -> Tensor:
    """1 for each token of the padded rows, flat (N · longest,), and 0 for padding."""
    ends = torch.tensor([len(g.prompt) + len(r) for g in batch.groups for r in g.responses])
    return (torch.arange(int(ends.max()))[None] < ends[:, None]).float().flatten()
