"""From a data set to the rows of tokens that a method trains on, and the model it starts from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from accord.learn.loop.limits import token_limits
from accord.learn.loop.processes import processes
from accord.lm.adapters.lora import add_adapters, continue_adapter
from accord.lm.load import base_and_adapter, load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import Encoding, check_some_used
from accord.lm.tokens.encode_chunks import MIN_RECORDS, encode_in_chunks
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.known_tokens import check_token_ids
from accord.records import Record
from accord.runs.activity import with_activity
from accord.settings.preferences import KtoSettings
from accord.settings.training import RewardSettings, SftSettings, TrainSettings

log = logging.getLogger(__name__)


def load_starting_model(settings: TrainSettings, *, scalar: bool) -> LanguageModel:
    """The model that training starts from, with its trainable parameters marked: all, or adapters.

    If `model` is an adapter, `lora.continue_adapter` trains it further on its base; otherwise it
    is merged into the base, and new adapters are added.
    """
    lora, (_, adapter) = settings.lora, base_and_adapter(settings.model)
    continues = adapter is not None and lora is not None and lora.continue_adapter
    if scalar:
        lm = load_scalar(
            settings.model,
            new_head=True,
            seed=settings.seed,
            heads=settings.heads if isinstance(settings, RewardSettings) else None,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            trainable=lora is None,
            merge=not continues,
            quantization=settings.quantization,
        )
    else:
        lm = load_causal(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            trainable=lora is None,
            merge=not continues,
            quantization=settings.quantization,
        )
    if lora is not None and continues:
        lm = continue_adapter(lm, settings.model, lora)
    elif lora is not None:
        lm = add_adapters(lm, lora, seed=settings.seed)
        if lora.continue_adapter:
            log.info("%s is not an adapter that could be continued: new ones are added.", lm.name)
    return with_memory_settings(lm, settings)


def with_memory_settings(lm: LanguageModel, settings: TrainSettings) -> LanguageModel:
    """The model, its activations recomputed in the backward pass, or saved in the machine's memory,
    where the settings ask for it."""
    if settings.gradient_checkpointing:
        lm.enable_gradient_checkpointing()
    lm.offloads_activations = settings.activation_offload
    if settings.activation_offload and lm.device.type == "cpu":
        log.warning(
            "activation_offload moves activations from a GPU to the machine's memory, and %s is on "
            "the CPU: it does nothing here.",
            lm.name,
        )
    return lm


def make_encoding(lm: LanguageModel, settings: TrainSettings) -> Encoding:
    """How the settings have records tokenised for a model."""
    return Encoding(
        lm.tokenizer,
        token_limits(settings),
        lm.eos_ids,
        settings.loss_on if isinstance(settings, SftSettings) else "response",
        settings.desirable_from if isinstance(settings, KtoSettings) else None,
    )


def encode_rows(
    records: Sequence[Record], lm: LanguageModel, settings: TrainSettings
) -> tuple[Sequence[PromptGroup], EncodeReport]:
    """Records as rows of tokens within the settings' limits, and a report of what was dropped.

    Raises ModelError where the tokenizer gives tokens that the model has no embedding for.
    """
    encoding = make_encoding(lm, settings)
    if len(records) >= MIN_RECORDS:
        rows, report = processes().main_first(
            partial(encode_in_chunks, records, encoding, total=len(records))
        )
        check_token_ids(lm, [[rows.largest_id]])
        return rows, report
    groups, report = encoding.encode(with_activity(records, "tokenising", len(records)))
    check_some_used(report, encoding.limits)
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    return groups, report
