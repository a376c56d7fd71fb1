"""The data sets of a training stage, from files to rows of tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from accord.compare.dataset import check_store_settings
from accord.compare.store.connection import is_store
from accord.compare.store_stream import StoreStream
from accord.data.kinds import Kind
from accord.data.read import choose_formats
from accord.data.report import ReadReport
from accord.data.stream import Columns, RecordStream, read_columns
from accord.data.streamed_rows import Stream, StreamedMixture, StreamedRows, TooFewUsableError
from accord.errors import DataError
from accord.learn.loop.datasets import EVAL, read_datasets, report_name
from accord.learn.loop.hub_rows import with_streamed_rows
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.processes import processes
from accord.learn.offline.methods import Method
from accord.learn.offline.prepared import (
    DatasetKey,
    Prepared,
    dataset_key,
    may_be_prepared,
    open_prepared,
    save_prepared,
)
from accord.learn.offline.record_notes import RecordNotes
from accord.learn.offline.rows import encode_rows, make_encoding
from accord.lm.digest import rows_digest
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode_chunks import encode_in_chunks
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.template import how_to_read_dialogues
from accord.lm.tokens.token_rows import TokenRows
from accord.runs import write_json_atomic
from accord.settings.data import MixtureSource
from accord.settings.training import RewardSettings, TrainSettings

log = logging.getLogger(__name__)

MIN_ROWS = 8192  # that are read of a large data set, however few steps there are
STREAMED_BYTES = 64 << 20
"""Size of files and stores from which on records go to tokens one by one, never all in memory."""


class DatasetRows:
    """The data sets of a training stage on their way to tokens.

    Before a model is loaded, it reads what no earlier run has prepared (`prepared`): all records,
    or of large files the columns. Raises DataError where one does not fit the method.
    """

    def __init__(
        self, settings: TrainSettings, method: Method[Any], memory: InMemory = NOTHING
    ) -> None:
        self._method, self._memory = method, memory
        self._local = settings = with_streamed_rows(settings, memory)
        self._kinds = dataset_kinds(method)
        self._keys: dict[str, DatasetKey | None] = {}
        processes().main_first(self._find_keys)
        # The main process's: a store that is written to would have another in each.
        self._keys = processes().announce(self._keys)
        self._prepared: list[str] = processes().announce(
            [n for n, key in self._keys.items() if key and may_be_prepared(key)]
        )
        self._streamed = {
            name: self._open(name, settings)
            for name, key in self._keys.items()
            if key and name not in self._prepared and self._is_streamed(name)
        }
        others = self._kinds.keys() - {*self._prepared, *self._streamed}
        kinds = {name: kind for name, kind in self._kinds.items() if name in others}
        try:
            processes().main_first(self._check_stores)
            self._read = read_datasets(settings, kinds, memory)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the stores that were opened and not read."""
        for sources in self._streamed.values():
            _close_stores(sources)

    def _find_keys(self) -> None:
        settings, memory = self._local, self._memory
        if not processes().is_main or memory.read or memory.method:
            return
        for name in self._kinds:
            if getattr(settings, name, None) and name not in memory.datasets:
                rows = rows_for_steps(settings, name)
                key = dataset_key(settings, name, rows, STREAMED_BYTES)
                if key is not None and key.digest is None and processes().world_size > 1:
                    key = key._replace(digest=uuid4().hex)  # of an index for the others
                self._keys[name] = key

    @property
    def names(self) -> list[str]:
        """The data sets that there are, by their settings; `eval_dataset/NAME` for one of
        several."""
        return [*self._read, *self._streamed, *self._prepared]

    def load(
        self,
        name: str,
        lm: LanguageModel,
        settings: TrainSettings,
        method: Method[Any] | None = None,
    ) -> Sequence[PromptGroup]:
        """The rows of a data set as tokens, once: its records are not kept beside them. `method`
        reads them, if another than that of training.

        What happened to its rows goes to the log and to `output_dir`.
        """
        method = method or self._method
        rows, read, encoded = self._load(name, lm, settings, method)
        _check_same_in_all(rows, read)
        log.info("%s: %s", read.name, read.summary())
        log.info("%s: %s.", read.name, encoded.summary())
        if processes().is_main:
            folder = Path(settings.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(
                folder / report_name(name), {"read": read.to_json(), "encoded": encoded.to_json()}
            )
        return rows

    def _load(
        self, name: str, lm: LanguageModel, settings: TrainSettings, method: Method[Any]
    ) -> tuple[Sequence[PromptGroup], ReadReport, EncodeReport]:
        key = self._keys.get(name)
        if name in self._prepared:
            assert key is not None
            prepared = open_prepared(key, make_encoding(lm, settings))
            if all(processes().all_gather(prepared is not None)):
                assert prepared is not None
                check_token_ids(lm, [[prepared[0].largest_id]])
                return prepared
            if self._is_streamed(name):
                self._streamed[name] = self._open(name, self._local)
            else:
                kinds = {name: self._kinds[name]}
                self._read.update(read_datasets(self._local, kinds, self._memory))
        if name in self._streamed:
            return self._stream(name, lm, settings, method)
        notes = RecordNotes(method, isinstance(settings, RewardSettings))
        read = self._read.pop(name)
        groups, encoded = encode_rows(list(notes.passing(read.records)), lm, settings)
        report = replace(read.report, notes=[*read.report.notes, *notes.notes()])
        if key is not None and isinstance(groups, TokenRows) and processes().is_main:
            save_prepared(key, make_encoding(lm, settings), groups, report, encoded)
        return groups, report, encoded

    def _is_streamed(self, name: str) -> bool:
        """Whether a data set is large, with those that are mixed with it."""
        key = self._keys[name]
        return key is not None and key.bytes >= STREAMED_BYTES

    def _check_stores(self) -> None:
        """Raise DataError for a store without verdicts for the method. The main process alone
        looks: the others read its index, and do not each copy the store."""
        opened = [source for sources in self._streamed.values() for source in sources]
        for source in opened if processes().is_main else ():
            if isinstance(source, StoreStream):
                source.check()

    def _open(self, name: str, settings: TrainSettings) -> list[Columns | StoreStream]:
        """The columns of a data set's files, or its store, and of those that are mixed with it."""
        kind, required = self._kinds[name], name == "dataset"
        path = str(getattr(settings, name))
        sources: list[tuple[str, TrainSettings | MixtureSource | None]] = [
            (path, None if name == "reference_dataset" else settings)
        ]
        if required:
            sources += [(source.dataset, source) for source in settings.mixture or ()]
        result: list[Columns | StoreStream] = []
        for path, source in sources:
            names = {} if source is None else source.columns or {}
            verdict_filter = None if source is None else source.filter
            if required:
                check_store_settings(path, kind, names, verdict_filter)
            if is_store(path):
                result.append(StoreStream(path, kind, verdict_filter))
                continue
            columns = read_columns(path, kind, names, columns_required=required)
            choose_formats(path, kind, list(columns.names))
            result.append(columns)
        return result

    def _stream(
        self, name: str, lm: LanguageModel, settings: TrainSettings, method: Method[Any]
    ) -> Prepared:
        """The rows of large files and stores, whose records are not in memory together."""
        key, encoding = self._keys[name], make_encoding(lm, settings)
        dialogue_text = how_to_read_dialogues(settings.dialogue_text, lm.tokenizer)
        kind, sources = self._kinds[name], self._streamed.pop(name)
        assert key is not None

        def read(*, counted: bool = False) -> Prepared:
            streams: list[RecordStream | StoreStream] = [
                RecordStream(source, kind, dialogue_text) if isinstance(source, Columns) else source
                for source in sources
            ]
            chosen = choose_streamed(name, streams, settings, counted=counted)
            notes = RecordNotes(method, isinstance(settings, RewardSettings))
            records = notes.passing(chosen.records())
            rows, encoded = encode_in_chunks(records, encoding, total=chosen.most_rows)
            report = chosen.report()
            return rows, replace(report, notes=[*report.notes, *notes.notes()]), encoded

        def tokenise() -> Prepared:
            if not processes().is_main:
                prepared = open_prepared(key, encoding)
                if prepared is not None:
                    return prepared
            try:
                result = read()
            except TooFewUsableError:
                result = read(counted=True)
            save_prepared(key, encoding, *result)
            return result

        try:
            result = processes().main_first(tokenise)
        finally:
            _close_stores(sources)
        check_token_ids(lm, [[result[0].largest_id]])
        return result


def _close_stores(sources: Iterable[object]) -> None:
    for source in sources:
        if isinstance(source, StoreStream):
            source.close()


def _check_same_in_all(rows: Sequence[PromptGroup], read: ReadReport) -> None:
    """Raise DataError where processes have read different rows. All call it together."""
    if processes().world_size > 1 and len(set(processes().all_gather(rows_digest(rows)))) > 1:
        raise DataError(
            f"The processes of this run have read different rows from {read.path}: it was written "
            "to while they read, or they see different files. Let nobody write to it, or train on "
            "a copy that all processes see."
        )


def choose_streamed(
    name: str, streams: Sequence[Stream], settings: TrainSettings, *, counted: bool = False
) -> StreamedRows | StreamedMixture:
    """The rows of a data set that the settings choose, as `read_datasets` chooses them. What
    `max_steps` takes is chosen before it is read, and only with `counted` among the usable rows."""
    parts = [StreamedRows(stream) for stream in streams]
    sources = settings.mixture or [] if name == "dataset" else []
    counts = {"dataset": settings.max_samples, EVAL: settings.max_eval_samples}
    limits = [counts.get(name), *(source.max_samples for source in sources)]
    for part, limit in zip(parts, limits, strict=True):
        part.limit(limit, settings.samples_from, settings.seed)
    if len(parts) == 1:
        rows = rows_for_steps(settings, name)
        if rows is not None and parts[0].most_rows > 2 * rows:
            why = f", more than max_steps={settings.max_steps} takes"
            if counted:
                parts[0].limit(rows, "anywhere", settings.seed, why)
            else:
                parts[0].sample(rows, _rows_taken(settings), settings.seed, why)
        return parts[0]
    weights = [source.weight for source in sources if source.weight is not None]
    return StreamedMixture.of(parts, [1.0, *weights] if weights else [], settings.seed)


def dataset_kinds(method: Method[Any]) -> dict[str, Kind]:
    """The kind of records that a method reads from each data set that its settings may name."""
    return {"dataset": method.kind, "eval_dataset": method.kind, "reference_dataset": "sft"}


def rows_for_steps(settings: TrainSettings, name: str) -> int | None:
    """How many rows of a large data set are read where `max_steps` needs fewer than all: a power of
    two, with a quarter more than the steps take, as some may be dropped; None for all."""
    if name != "dataset" or settings.max_steps is None or settings.mixture:
        return None
    needed = _rows_taken(settings)
    return max(MIN_ROWS, 1 << (needed + needed // 4 - 1).bit_length())


def _rows_taken(settings: TrainSettings) -> int:
    """The rows that `max_steps` takes."""
    assert settings.max_steps is not None
    per_pass = settings.per_device_train_batch_size * processes().world_size
    return settings.max_steps * settings.gradient_accumulation_steps * per_pass
