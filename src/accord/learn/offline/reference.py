"""Log-probs under the reference model: computed once and cached on disk, or step by step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.errors import SettingsError, StorageError
from accord.learn.loop.limits import check_reference_positions
from accord.learn.loop.objective import Reference, ReferenceFactory
from accord.learn.loop.processes import Processes, processes
from accord.learn.loop.schedule import row_batches
from accord.lm.adapters.views import base_view
from accord.lm.digest import is_same_path, rows_digest, weights_digest
from accord.lm.forward import response_logps
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.runs import atomic_folder, digest_json
from accord.runs.activity import with_activity
from accord.runs.cache import cache_folder, remove_oldest
from accord.settings.preferences import ReferenceSettings
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

MAX_CACHED = 64  # sets of log-probs in the cache
DIGEST = "[0-9a-f]" * 32  # the names of cached sets
LAYOUT = 1  # version of the files and of what is computed
PROBED_ROWS = 4  # rows computed again before a cached set is trusted
# Mean difference, in nats a token, that other batching may cause.
AGREEMENT = {"fp32": 1e-3, "bf16": 0.05}


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
            loaded[:] = loaded or [_load_reference(lm, settings)]
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
    )
    check_same_tokenizer(lm, reference)
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


@torch.no_grad()
def compute_log_probs(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    procs: Processes = Processes(),  # noqa: B008 - frozen
) -> list[Tensor]:
    """Each row's token log-probs (its R,) under the model's present weights, on the CPU; computed
    `batch_size` rows at a time, or fewer where these have more than `max_tokens`.

    Several processes take the batches in turn; all of them return all rows.
    """
    computed: dict[int, Tensor] = {}
    sizes = [g.num_tokens for g in groups]
    batches = list(row_batches(sizes, batch_size, max_tokens=max_tokens))
    for turn, rows in enumerate(with_activity(batches, "reference, batch", len(batches))):
        if turn % procs.world_size != procs.rank:
            continue
        batch = pack([groups[i] for i in rows], lm.device)
        logps = response_logps(lm, batch).cpu()
        counts = [groups[i].num_targets for i in rows]
        computed.update(zip(rows, logps.split(counts), strict=True))
    for shard in procs.all_gather(computed):
        computed.update(shard)
    return [computed[i] for i in range(len(groups))]


def cached_log_probs(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    procs: Processes = Processes(),  # noqa: B008 - frozen
) -> list[Tensor]:
    """`compute_log_probs`, or its result of an earlier run from the user's cache.

    The cache key is a digest of everything that determines them: weights and configuration, the
    rows' token ids (so texts, template and limits), and precision. A few rows are computed again
    before a cached set is trusted; if they differ, all rows are. If the cache can't be written,
    a warning is logged and training continues.
    """
    key = digest_json(
        {
            "layout": LAYOUT,
            "weights": weights_digest(lm),
            "rows": rows_digest(groups),
            "precision": lm.precision,
        }
    )
    folder = cache_folder("reference") / key[:32]
    cached = procs.broadcast(_read(folder, groups) if procs.is_main else None)
    if cached is not None:
        agrees = _agrees(lm, groups, cached, batch_size=batch_size, max_tokens=max_tokens)
        if procs.broadcast(agrees):  # the main process decides, or some would continue alone
            log.info("The reference log-probs of %d rows come from the cache.", len(groups))
            return cached
        log.warning("The cached log-probs in %s are another model's; computed again.", folder)
    row_logps = compute_log_probs(
        lm, groups, batch_size=batch_size, max_tokens=max_tokens, procs=procs
    )
    if procs.is_main:
        _write(folder, row_logps)
    return row_logps


def _read(folder: Path, groups: Sequence[PromptGroup]) -> list[Tensor] | None:
    path = folder / "logps.safetensors"
    if not path.is_file():
        return None
    try:
        flat = load_file(path)["logps"]
        return list(flat.split([g.num_targets for g in groups]))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        log.warning("%s can't be read (%s); computed again.", path, error)
        return None


def _write(folder: Path, rows: Sequence[Tensor]) -> None:
    try:
        with atomic_folder(folder) as temporary:
            save_file({"logps": torch.cat(list(rows))}, temporary / "logps.safetensors")
        remove_oldest(folder.parent, MAX_CACHED, DIGEST)
    except (OSError, StorageError) as error:
        log.warning("The reference log-probs are not cached for later runs: %s", error)


def _agrees(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    cached: Sequence[Tensor],
    *,
    batch_size: int,
    max_tokens: int | None,
) -> bool:
    probed = range(0, len(groups), max(1, len(groups) // PROBED_ROWS))[:PROBED_ROWS]
    rows = [groups[i] for i in probed]
    computed = compute_log_probs(lm, rows, batch_size=batch_size, max_tokens=max_tokens)
    difference = torch.cat(computed) - torch.cat([cached[i] for i in probed])
    return bool(difference.abs().mean() <= AGREEMENT[lm.precision])
