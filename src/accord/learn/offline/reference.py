"""Which model the reference is, and its log-probs: computed before training, or step by step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.learn.loop.limits import check_reference_positions
from accord.learn.loop.objective import Reference, ReferenceFactory
from accord.learn.loop.processes import processes
from accord.learn.loop.sharding import load_divided
from accord.learn.offline.reference_cache import cached_log_probs
from accord.lm.adapters.views import base_view
from accord.lm.digest import is_same_path
from accord.lm.forward import response_logps
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.settings.preferences import ReferenceSettings
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)


def make_reference_factory(
    lm: LanguageModel, settings: TrainSettings, ref_model: LanguageModel | None = None
) -> ReferenceFactory:
    """A factory of the reference's log-probs of some rows.

    It must be called before any weight changes: the reference may be the starting model itself.
    Another reference model is loaded once, at the first call, unless `ref_model` is passed.
    """
    loaded = [] if ref_model is None else [ref_model]

    def make(groups: Sequence[PromptGroup]) -> Reference:
        assert isinstance(settings, ReferenceSettings)
        model, kind = lm, reference_kind(lm, settings.model, settings.ref_model)
        if kind == "other":
            loaded[:] = loaded or [
                load_divided(lambda: _load_reference(lm, settings), lambda model: [model], settings)
            ]
            model = loaded[0]
            check_reference_positions(model, groups)
        elif kind == "base":
            if not _should_precompute(settings):
                return adapters_off_reference(lm)
            model = base_view(lm)
        elif settings.precompute_ref_log_probs is False:
            raise SettingsError(
                f"precompute_ref_log_probs=false, but the reference is the adapter in "
                f"{settings.model} as it is at the start, and training changes it. Leave it out."
            )
        if not groups:
            return stored_log_probs([])
        return stored_log_probs(
            cached_log_probs(
                model,
                groups,
                batch_size=settings.per_device_train_batch_size,
                max_tokens=settings.max_tokens_per_forward,
                procs=processes(),
            )
        )

    return make


def _load_reference(lm: LanguageModel, settings: ReferenceSettings) -> LanguageModel:
    assert settings.ref_model is not None
    log.info(
        "The reference %s is not the starting model %s: the KL penalty pulls towards it from "
        "the first step.",
        settings.ref_model,
        settings.model,
    )
    reference = load_causal(
        settings.ref_model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        quantization=settings.quantization,
    )
    check_same_tokenizer(lm, reference)
    reference.model.requires_grad_(False)
    return reference


def check_same_tokenizer(lm: LanguageModel, reference: LanguageModel) -> None:
    """Raise SettingsError where the reference's tokenizer has another vocabulary."""
    if lm.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise SettingsError(
            f"The reference {reference.name} has another tokenizer than {lm.name}, so their "
            f"log-probs can't be compared. Set ref_model to a model of the same family."
        )


def _should_precompute(settings: ReferenceSettings) -> bool:
    """Whether the log-probs of a base under adapters are computed before training."""
    if settings.precompute_ref_log_probs is not None:
        return settings.precompute_ref_log_probs
    return settings.max_steps is None and settings.num_train_epochs > 1


def reference_kind(
    lm: LanguageModel, model: str, ref_model: str | None
) -> Literal["base", "start", "other"]:
    """Which model the reference is, for training that starts from `model`: the base under its
    adapters, the start itself, or another model.

    New adapters change nothing at first, so with them the base is the start. If an adapter is
    continued, its base is not the start.
    """
    reference = ref_model or model
    if lm.is_peft and is_same_path(reference, lm.name):
        return "base"
    return "start" if is_same_path(reference, model) else "other"


def stored_log_probs(row_logps: Sequence[Tensor]) -> Reference:
    """A reference whose token log-probs of each row are already computed."""

    def look_up(batch: PackedBatch, rows: Sequence[int]) -> Tensor:
        return torch.cat([row_logps[i] for i in rows]).to(batch.device)

    return look_up


def adapters_off_reference(lm: LanguageModel) -> Reference:
    """The base under a model's adapters, computed for each batch."""
    base = base_view(lm)

    @torch.no_grad()
    def compute(batch: PackedBatch, rows: Sequence[int]) -> Tensor:
        return response_logps(base, batch)

    return compute
