"""Log-probs under the reference model, computed once before training and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.runs import atomic_folder

log = logging.getLogger(__name__)

FOLDER = "reference"


def batches_of(rows: int, size: int) -> Iterator[range]:
    """Row numbers in order, `size` at a time."""
    for start in range(0, rows, size):
        yield range(start, min(rows, start + size))


@torch.no_grad()
def reference_logps(
    lm: LanguageModel, groups: Sequence[PromptGroup], *, batch_size: int
) -> list[Tensor]:
    """Summed log-probs (K,) of each group's responses under the reference.

    With adapters it is the base they sit on, adapters off; else the model as it is now.
    """
    found: list[Tensor] = []
    context: AbstractContextManager[None] = lm.as_reference() if lm.is_peft else nullcontext()
    with context:
        for rows in batches_of(len(groups), batch_size):
            batch = pack([groups[i] for i in rows], lm.device)
            sums = batch.per_response(response_logps(lm, batch)).cpu()
            found += sums.split([len(groups[i].responses) for i in rows])
    return found


def kept_reference(
    output_dir: Path, lm: LanguageModel, groups: Sequence[PromptGroup], *, batch_size: int
) -> list[Tensor]:
    """`reference_logps`, read from `output_dir/reference` where an earlier start left them.

    They are taken only if they are as many as the responses and the first rows, computed anew,
    agree to 1e-3 nats; otherwise they are computed and written again.
    """
    folder = output_dir / FOLDER
    counts = [len(g.responses) for g in groups]
    if (folder / "logps.safetensors").is_file():
        flat = load_file(folder / "logps.safetensors")["logps"]
        if len(flat) == sum(counts):
            kept = list(flat.split(counts))
            probe = reference_logps(lm, groups[:4], batch_size=batch_size)
            if torch.allclose(torch.cat(kept[: len(probe)]), torch.cat(probe), atol=1e-3):
                return kept
        log.warning("The reference log-probs in %s are of other rows or weights; again.", folder)
    found = reference_logps(lm, groups, batch_size=batch_size)
    with atomic_folder(folder) as temporary:
        save_file({"logps": torch.cat(found)}, temporary / "logps.safetensors")
    return found
