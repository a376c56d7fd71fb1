"""The loss of held-out rows under a model: rows are read as `sft` reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from accord.compare.dataset import load_records
from accord.errors import DataError, ModelError
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import FORWARD_TOKENS, PromptGroup, forward_batches, pack
from accord.lm.tokens.encode import Limits, encode
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.template import how_to_read_dialogues
from accord.measure.audits.audit import Audit
from accord.measure.audits.broken import HELD_OUT, HeldOutRow, held_out_audit
from accord.records import Demonstration, Record, Source, Text, prompt_text
from accord.runs.activity import with_activity
from accord.settings.audit import AuditSettings

BATCH = 32
SHOWN = 2000  # characters of a row in a sample


@dataclass(slots=True)
class RowLoss:
    """The summed log-loss of a row's tokens in nats; `digest` is that of the tokens."""

    record: Record
    loss: float = 0.0
    tokens: int = 0
    digest: Any = field(default_factory=lambda: blake2b(digest_size=16))


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """The rows that a model could read, by their position, and notes on the others."""

    rows: Mapping[tuple[Source, int], RowLoss]
    notes: tuple[str, ...]


def held_out_losses(lm: LanguageModel, dataset: str, settings: AuditSettings) -> HeldOutLosses:
    """The loss of each row on the tokens that `sft` learns: a demonstration's response with its
    EOS, or all of a text.

    Raises ModelError where a model gives no finite log-prob.
    """
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, lm.tokenizer)
    records, read = load_records(dataset, "sft", dialogue_text)
    numbered = _number(records)
    limits = Limits(min(lm.max_positions or FORWARD_TOKENS, FORWARD_TOKENS))
    groups, encoded = encode(
        [replace(record, source=Source("", i + 1)) for i, record in enumerate(records)],
        lm.tokenizer,
        limits,
        eos_ids=lm.eos_ids,
    )
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    rows: dict[tuple[Source, int], RowLoss] = {}
    for group, loss in zip(groups, _losses(lm, groups), strict=True):
        if not math.isfinite(loss):
            raise ModelError(
                f"{lm.name} gives no finite log-prob to the tokens of a row of {dataset}, so its "
                "weights are damaged, or overflow. Give another model."
            )
        position = numbered[(group.source.line or 1) - 1]
        row = rows.setdefault(position, RowLoss(records[(group.source.line or 1) - 1]))
        row.loss += loss
        row.tokens += len(group.responses[0])
        row.digest.update(np.array(group.responses[0], dtype=np.int64).tobytes())
    notes = [f"{HELD_OUT}: {read.summary()}"] if read.dropped else []
    if encoded.dropped:
        notes.append(f"{HELD_OUT}, read by {lm.name}: {encoded.summary()}.")
    return HeldOutLosses(rows, tuple(notes))


def _number(records: list[Record]) -> list[tuple[Source, int]]:
    """Each record's source with its number among those of one row."""
    counts: dict[Source, int] = {}
    positions = []
    for record in records:
        counts[record.source] = counts.get(record.source, -1) + 1
        positions.append((record.source, counts[record.source]))
    return positions


@torch.no_grad()
def _losses(lm: LanguageModel, groups: list[PromptGroup]) -> list[float]:
    """The summed log-loss of each group's response."""
    losses: list[float] = []
    batches = list(forward_batches([g.num_tokens for g in groups], BATCH))
    for indices in with_activity(batches, "held-out loss, batch", len(batches)):
        batch = pack([groups[i] for i in indices], lm.device)
        losses += (-batch.per_response(response_logps(lm, batch).double())).tolist()
    return losses


def held_out_result(
    before: HeldOutLosses, after: HeldOutLosses, settings: AuditSettings
) -> tuple[Audit, tuple[str, ...]]:
    """The audit of the rows that both models could read.

    Raises DataError where these are none, or where the two tokenizers write a row in other tokens:
    nats a token are then no common scale.
    """
    shared = [position for position in before.rows if position in after.rows]
    if not shared:
        raise DataError(
            f"No row of {settings.held_out} can be read by both models. Give shorter rows."
        )
    rows = []
    for position in shared:
        old, new = before.rows[position], after.rows[position]
        if old.digest.digest() != new.digest.digest():
            raise DataError(
                f"The tokenizers of {settings.before} and {settings.model} write {position[0]} in "
                "other tokens, so their losses a token can't be compared. Leave `held_out` out, or "
                "compare models with one tokenizer and chat template."
            )
        prompt, response = _texts(old.record)
        rows.append(
            HeldOutRow(
                prompt[-SHOWN:], response[:SHOWN], old.tokens, old.loss, new.loss, _unit(old.record)
            )
        )
    notes = list(dict.fromkeys((*before.notes, *after.notes)))
    left_out = len(before.rows.keys() ^ after.rows.keys())
    if left_out:
        notes.append(f"{HELD_OUT}: {left_out:,} rows that only one model can read are left out.")
    lineage = {"dataset": settings.held_out, "before": settings.before, "after": settings.model}
    return held_out_audit(rows, lineage=lineage, limits=settings.limit_pairs), tuple(notes)


def _texts(record: Record) -> tuple[str, str]:
    if isinstance(record, Text):
        return "", record.text
    assert isinstance(record, Demonstration)
    return prompt_text(record.prompt), record.response


def _unit(record: Record) -> str:
    """What rows that are not independent of each other share: the prompt, or the text."""
    text = record.text if isinstance(record, Text) else prompt_text(record.prompt)
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
