"""From a data set to the rows of tokens that a method trains on, and the model it starts from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accord.data.kinds import Kind
from accord.data.report import ReadReport
from accord.data.selection import ReadRows
from accord.learn.loop.datasets import read_datasets, report_name
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.limits import token_limits
from accord.learn.loop.processes import processes
from accord.learn.offline.methods import Method
from accord.learn.offline.prepared import (
    dataset_key,
    may_be_prepared,
    open_prepared,
    save_prepared,
)
from accord.lm.adapters.lora import add_adapters, continue_adapter
from accord.lm.load import base_and_adapter, load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import Encoding, check_some_used
from accord.lm.tokens.encode_chunks import MIN_RECORDS, encode_in_chunks
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.token_rows import TokenRows
from accord.reasoning import answer_of
from accord.records import Comparison, Ranking, Record
from accord.runs import write_json_atomic
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
        )
    else:
        lm = load_causal(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            trainable=lora is None,
            merge=not continues,
        )
    if lora is not None and continues:
        lm = continue_adapter(lm, settings.model, lora)
    elif lora is not None:
        lm = add_adapters(lm, lora, seed=settings.seed)
        if lora.continue_adapter:
            log.info("%s is not an adapter that could be continued: new ones are added.", lm.name)
    return with_gradient_checkpointing(lm, settings)


def with_gradient_checkpointing(lm: LanguageModel, settings: TrainSettings) -> LanguageModel:
    """The model, recomputing activations in the backward pass where the settings ask for it."""
    if settings.gradient_checkpointing:
        lm.enable_gradient_checkpointing()
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
        rows, report = processes().main_first(partial(encode_in_chunks, records, encoding))
        check_token_ids(lm, [[rows.largest_id]])
        return rows, report
    groups, report = encoding.encode(with_activity(records, "tokenising", len(records)))
    check_some_used(report, encoding.limits)
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    return groups, report


class DatasetRows:
    """The data sets of a training stage on their way to tokens.

    Reads at once, before a model is loaded, those that no earlier run has prepared (`prepared`);
    raises DataError where one does not fit the method.
    """

    def __init__(
        self, settings: TrainSettings, method: Method[Any], memory: InMemory = NOTHING
    ) -> None:
        self._method, self._memory = method, memory
        self._kinds = dataset_kinds(method)
        self._keys = {
            name: dataset_key(settings, name, kind, uses_margins=method.uses_margins)
            for name, kind in self._kinds.items()
            if getattr(settings, name, None) and not memory.read and name not in memory.datasets
        }
        self._prepared = [n for n, key in self._keys.items() if key and may_be_prepared(key)]
        unread = {name: kind for name, kind in self._kinds.items() if name not in self._prepared}
        self._read = read_datasets(settings, unread, memory)

    @property
    def names(self) -> list[str]:
        """The data sets that there are, by their settings; `eval_dataset/NAME` for one of
        several."""
        return [*self._read, *self._prepared]

    def load(
        self,
        name: str,
        lm: LanguageModel,
        settings: TrainSettings,
        method: Method[Any] | None = None,
    ) -> Sequence[PromptGroup]:
        """The rows of a data set as tokens, once: its records are not kept beside them. `method`
        reads them, if another than that of training."""
        key = self._keys.get(name)
        if name in self._prepared:
            assert key is not None
            encoding = make_encoding(lm, settings)
            opened = open_prepared(key, encoding)
            if all(processes().all_gather(opened is not None)):
                assert opened is not None
                rows, read, encoded = opened
                check_token_ids(lm, [[rows.largest_id]])
                _report_rows(read, encoded, settings, report_name(name))
                return rows
            kinds = {name: self._kinds[name]}
            self._read.update(read_datasets(settings, kinds, self._memory))
        return load_rows(
            self._read.pop(name), lm, method or self._method, settings, report_name(name), key
        )


def dataset_kinds(method: Method[Any]) -> dict[str, Kind]:
    """The kind of records that a method reads from each data set that its settings may name."""
    return {"dataset": method.kind, "eval_dataset": method.kind, "reference_dataset": "sft"}


def load_rows(
    dataset: ReadRows,
    lm: LanguageModel,
    method: Method[Any],
    settings: TrainSettings,
    report_name: str,
    key: str | None = None,
) -> Sequence[PromptGroup]:
    """Encode the records of a data set for a method; the report goes to the log and to
    `output_dir`, and with a `key` (`dataset_key`) large ones to the user's cache."""
    records, read = dataset.records, dataset.report
    notes = [*read.notes, *_unused_labels(records, method)]
    if isinstance(settings, RewardSettings):
        records, reasoned = answers_alone(records)
        if reasoned:
            notes.append(
                f"the reasoning in the responses of {reasoned:,} records is not read: a reward "
                "model scores answers"
            )
    read = replace(read, notes=notes)
    groups, encoded = encode_rows(records, lm, settings)
    _report_rows(read, encoded, settings, report_name)
    if key is not None and isinstance(groups, TokenRows) and processes().is_main:
        save_prepared(key, make_encoding(lm, settings), groups, read, encoded)
    return groups


def _report_rows(
    read: ReadReport, encoded: EncodeReport, settings: TrainSettings, report_name: str
) -> None:
    log.info("%s: %s", read.name, read.summary())
    log.info("%s: %s.", read.name, encoded.summary())
    folder = Path(settings.output_dir)
    if processes().is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(
            folder / report_name, {"read": read.to_json(), "encoded": encoded.to_json()}
        )


def answers_alone(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Pairs and rankings whose responses are without their reasoning, as a reward model reads them,
    and the number of records that had some. A response whose reasoning never ends is empty."""
    answers = [_answers_of(record) for record in records]
    return answers, sum(a != b for a, b in zip(answers, records, strict=True))


def _answers_of(record: Record) -> Record:
    if isinstance(record, Comparison):
        chosen, rejected = answer_of(record.chosen), answer_of(record.rejected)
        return replace(record, chosen=chosen, rejected=rejected)
    if isinstance(record, Ranking):
        return replace(record, responses=tuple(map(answer_of, record.responses)))
    return record


def _unused_labels(records: Sequence[Record], method: Method[Any]) -> list[str]:
    """What the method does not learn from the pairs' labels, for the report."""
    pairs = [record for record in records if isinstance(record, Comparison)]
    margins = sum(pair.margin is not None for pair in pairs)
    soft = sum(pair.probability is not None for pair in pairs)
    voted = sum(isinstance(record, Ranking) and bool(record.votes) for record in records)
    notes = []
    if margins and not method.uses_margins:
        notes.append(
            f"the margins of {margins:,} pairs are not used: only `reward` learns from them"
        )
    if soft and method.kind != "preferences":
        notes.append(
            f"the soft labels of {soft:,} pairs are not used: the response that most votes prefer "
            "is the chosen one"
        )
    if voted and method.kind != "preferences":
        notes.append(
            f"of {voted:,} rankings of several annotators the order that they give together is "
            "used (Borda count)"
        )
    return notes
