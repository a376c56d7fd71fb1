"""Log-probs under the reference model: computed once and kept on disk, or step by step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.errors import StorageError
from accord.learn.loop.objective import Reference
from accord.learn.loop.passes import row_batches
from accord.learn.loop.processes import Processes
from accord.lm.adapters.views import base_view
from accord.lm.digest import rows_digest, same_path, weights_digest
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.runs import atomic_folder, digest_json
from accord.runs.cache import cache_folder, keep_newest

log = logging.getLogger(__name__)

KEPT = 64  # sets of log-probs in the cache
LAYOUT = 1  # of the files, and of what is computed
PROBED = 4  # rows that are computed again before a kept set is believed
# Nats a token by which log-probs in other batches may differ, on average.
AGREEMENT = {"fp32": 1e-3, "bf16": 0.05}


def reference_kind(
    lm: LanguageModel, model: str, ref_model: str | None
) -> Literal["base", "start", "other"]:
    """Whose log-probs the reference's are, of a model that starts from `model`: those of the base
    under its adapters, of the start itself, or of another model.

    New adapters change nothing at first, so with them the base is the start. An adapter that goes
    on learning is a start that its base is not.
    """
    wanted = ref_model or model
    if lm.is_peft and same_path(wanted, lm.name):
        return "base"
    return "start" if same_path(wanted, model) else "other"


def stored_log_probs(known: Sequence[Tensor]) -> Reference:
    """A reference of which each row's token log-probs are known."""

    def look_up(batch: PackedBatch, rows: Sequence[int]) -> Tensor:
        return torch.cat([known[i] for i in rows]).to(batch.device)

    return look_up


def adapters_off_reference(lm: LanguageModel) -> Reference:
    """The base under a model's adapters, computed on each batch as it comes."""
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
    most_tokens: int | None = None,
    processes: Processes | None = None,
) -> list[Tensor]:
    """Each row's token log-probs (its R,) under the model as it is now, on the CPU; computed
    `batch_size` rows at a time, or fewer where they have more than `most_tokens`.

    Several processes take turns with the batches.
    """
    team = processes or Processes()
    found: dict[int, Tensor] = {}
    sizes = [g.num_tokens for g in groups]
    for turn, rows in enumerate(row_batches(sizes, batch_size, most=most_tokens)):
        if turn % team.world_size != team.rank:
            continue
        batch = pack([groups[i] for i in rows], lm.device)
        logps = response_logps(lm, batch).cpu()
        found.update(zip(rows, logps.split(_counts([groups[i] for i in rows])), strict=True))
    for share in team.all_gather(found):
        found.update(share)
    return [found[i] for i in range(len(groups))]


def cached_log_probs(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    *,
    batch_size: int,
    most_tokens: int | None = None,
    processes: Processes | None = None,
) -> list[Tensor]:
    """`compute_log_probs`, from the cache where another run has left them.

    They are kept under a digest of all that decides them: the weights and configuration, the
    rows' token ids (so the texts, template and lengths), and the precision. A few rows are computed
    again before they are believed; where these differ, all are. A cache that can't be written is
    done without, with a warning.
    """
    team = processes or Processes()
    key = digest_json(
        {
            "layout": LAYOUT,
            "weights": weights_digest(lm),
            "rows": rows_digest(groups),
            "precision": lm.precision,
        }
    )
    folder = cache_folder("reference") / key[:32]
    kept = team.broadcast(_read(folder, groups) if team.is_main else None)
    if kept is not None:
        agree = _agree(lm, groups, kept, batch_size=batch_size, most_tokens=most_tokens)
        if team.broadcast(agree):  # the main process's word, or some would go on alone
            log.info("The reference log-probs of %d rows were kept from before.", len(groups))
            return kept
        log.warning("The reference log-probs in %s are not this model's; again.", folder)
    found = compute_log_probs(
        lm, groups, batch_size=batch_size, most_tokens=most_tokens, processes=team
    )
    if team.is_main:
        _write(folder, found)
    return found


def _counts(groups: Sequence[PromptGroup]) -> list[int]:
    return [g.num_targets for g in groups]


def _read(folder: Path, groups: Sequence[PromptGroup]) -> list[Tensor] | None:
    place = folder / "logps.safetensors"
    if not place.is_file():
        return None
    try:
        flat = load_file(place)["logps"]
        return list(flat.split(_counts(groups)))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        log.warning("%s can't be read (%s); computed again.", place, error)
        return None


def _write(folder: Path, rows: Sequence[Tensor]) -> None:
    try:
        with atomic_folder(folder) as temporary:
            save_file({"logps": torch.cat(list(rows))}, temporary / "logps.safetensors")
        keep_newest(folder.parent, KEPT)
    except (OSError, StorageError) as error:
        log.warning("The reference log-probs are not kept for later runs: %s", error)


def _agree(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    kept: Sequence[Tensor],
    *,
    batch_size: int,
    most_tokens: int | None,
) -> bool:
    numbers = range(0, len(groups), max(1, len(groups) // PROBED))[:PROBED]
    probed = [groups[i] for i in numbers]
    probe = compute_log_probs(lm, probed, batch_size=batch_size, most_tokens=most_tokens)
    off = torch.cat(probe) - torch.cat([kept[i] for i in numbers])
    return bool(off.abs().mean() <= AGREEMENT[lm.precision])
