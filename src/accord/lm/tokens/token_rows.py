"""Rows of tokens in Arrow files: four bytes a token, read from the disk where they are needed."""

from __future__ import annotations

import json
import os
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode_report import EncodeReport
from accord.records import Source
from accord.runs import digest_json

OPEN_CHUNKS = 256  # files in use at a time: a process may have some thousand open
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [
        ("record", pa.int32()),  # the number of its record within the chunk
        ("prompt", _IDS),
        ("responses", pa.list_(_IDS)),
        ("ranks", _IDS),
        ("targets", pa.int32()),
        ("labels", pa.list_(pa.bool_())),
        ("loss_mask", pa.list_(pa.list_(pa.bool_()))),
        ("votes", pa.list_(_IDS)),
        ("margin", pa.float64()),
        ("probability", pa.float64()),
    ]
)
_RARE = ("labels", "loss_mask", "votes", "margin", "probability")


class Sources:
    """The sources of records in some bytes each: a `Source` is made where one is asked for."""

    def __init__(
        self,
        paths: Sequence[tuple[str, bool]] = (),
        path_of: Iterable[int] = (),
        line_of: Iterable[int] = (),
    ) -> None:
        """`paths` are distinct ones, each with whether it is of rows in memory; of each record
        (N,) the number of its path, and its line, −1 where there is none."""
        self._paths = {path: number for number, path in enumerate(paths)}
        self._path_of, self._line_of = array("i", path_of), array("q", line_of)

    def append(self, source: Source) -> None:
        """Add the source of the next record."""
        path = (source.path, source.in_memory)
        self._path_of.append(self._paths.setdefault(path, len(self._paths)))
        self._line_of.append(-1 if source.line is None else source.line)

    def __getitem__(self, index: int) -> Source:
        path, in_memory = list(self._paths)[self._path_of[index]]
        line = self._line_of[index]
        return Source(path, None if line < 0 else line, in_memory)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`path_of` and `line_of`, as the constructor takes them."""
        return {
            "path_of": np.array(self._path_of, dtype=np.int32),
            "line_of": np.array(self._line_of, dtype=np.int64),
        }

    @property
    def paths(self) -> list[tuple[str, bool]]:
        return list(self._paths)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A file of token groups, or the same bytes in memory.

    `tokens` (G,) are those that a packed batch holds of each group, `targets` (G,) those trained
    on; `largest_id` is the largest token id; `digest` that of all token ids, in order.
    """

    origin: Path | bytes
    records: int
    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    largest_id: int
    digest: str
    report: EncodeReport

    def open(self) -> ChunkReader:
        if isinstance(self.origin, Path):
            with suppress(OSError):
                os.utime(self.origin)  # what a run reads is not removed from the cache
        return ChunkReader(_table(self.origin))


def write_chunk(groups: Sequence[PromptGroup], facts: dict[str, Any]) -> bytes:
    """Groups as an Arrow file with `facts` (JSON) in its metadata. The line of a group's source is
    the number of its record within the chunk."""
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for group in groups:
        columns["record"].append(group.source.line)
        columns["targets"].append(group.num_targets)
        for name in ("prompt", "responses", "ranks"):
            columns[name].append(getattr(group, name))
        for name in _RARE:
            value = getattr(group, name)
            columns[name].append(None if value == () else value)
    schema = _SCHEMA.with_metadata({"accord": json.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table(columns, schema=schema).combine_chunks())
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_chunk(origin: Path | bytes) -> tuple[ChunkReader, dict[str, Any]]:
    """A chunk's groups and its facts. Raises OSError or ValueError where it is damaged."""
    table = _table(origin)
    return ChunkReader(table), json.loads((table.schema.metadata or {})[b"accord"])


def _table(origin: Path | bytes) -> pa.RecordBatch:
    source = pa.memory_map(str(origin)) if isinstance(origin, Path) else pa.BufferReader(origin)
    reader = pa.ipc.open_file(source)
    if reader.num_record_batches == 0:
        return pa.RecordBatch.from_pylist([], schema=reader.schema)
    return reader.get_batch(0)


class ChunkReader:
    """The groups of a chunk, each made when it is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        columns = {name: batch.column(name) for name in _SCHEMA.names}
        self.count = batch.num_rows
        self.record = _numbers(columns["record"])
        self.targets = _numbers(columns["targets"])
        self._prompt_ends, self._prompt = _offsets(columns["prompt"]), _values(columns["prompt"])
        self._group_ends = _offsets(columns["responses"])
        responses = columns["responses"].values
        self._response_ends, self._responses = _offsets(responses), _values(responses)
        self._rank_ends, self._ranks = _offsets(columns["ranks"]), _values(columns["ranks"])
        self._rare = {n: columns[n] for n in _RARE if columns[n].null_count < self.count}

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Tokens that a packed batch holds of each group."""
        ends = self._response_ends[self._group_ends]
        return (np.diff(self._prompt_ends) + np.diff(ends)).astype(np.int32)

    @property
    def largest_id(self) -> int:
        return max(
            (int(ids.max()) for ids in (self._prompt, self._responses) if len(ids)), default=0
        )

    @property
    def prompt_hashes(self) -> NDArray[np.int64]:
        """A 64-bit hash of each prompt's ids (G,), with which this process can compare prompts."""
        hashes = (hash(self._prompt[a:b].tobytes()) for a, b in pairwise(self._prompt_ends))
        return np.fromiter(hashes, np.int64, self.count)

    @property
    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of each prompt (G,), the number of responses to each (G,), and the tokens of each
        response, one group's after the other's."""
        ends = self._response_ends[self._group_ends[0] : self._group_ends[-1] + 1]
        lengths = (self._prompt_ends, self._group_ends, ends)
        prompts, counts, responses = (np.diff(values).astype(np.int64) for values in lengths)
        return prompts, counts, responses

    def count_labels(self) -> tuple[int, int]:
        """The number of labels, and of those that are true."""
        if "labels" not in self._rare:
            return 0, 0
        labels = self._rare["labels"].flatten()
        return len(labels), labels.true_count

    def group(self, index: int, source: Source) -> PromptGroup:
        first, last = self._group_ends[index], self._group_ends[index + 1]
        ends = self._response_ends[first : last + 1].tolist()
        return PromptGroup(
            tuple(self._prompt[slice(*self._prompt_ends[index : index + 2])].tolist()),
            tuple(tuple(self._responses[a:b].tolist()) for a, b in pairwise(ends)),
            tuple(self._ranks[slice(*self._rank_ends[index : index + 2])].tolist()),
            source=source,
            **self._rare_values(index),
        )

    def _rare_values(self, index: int) -> dict[str, Any]:
        values = {name: column[index].as_py() for name, column in self._rare.items()}
        return {name: _as_tuple(value) for name, value in values.items() if value is not None}


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _numbers(column: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=column.null_count == 0))


def _offsets(column: Any) -> NDArray[Any]:
    return _numbers(column.offsets)


def _values(column: Any) -> NDArray[Any]:
    return _numbers(column.values)


@dataclass(slots=True)
class TokenRows(Sequence[PromptGroup]):
    """Token groups in chunks, as a sequence: one that is asked for is read from its chunk."""

    chunks: Sequence[Chunk]
    sources: Sources
    num_tokens: NDArray[np.int32] = field(init=False)
    num_targets: NDArray[np.int32] = field(init=False)
    _groups: NDArray[np.int64] = field(init=False)  # (C + 1,) where each chunk's groups begin
    _records: NDArray[np.int64] = field(init=False)
    _open: OrderedDict[int, ChunkReader] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.num_tokens = np.concatenate([chunk.tokens for chunk in self.chunks])
        self.num_targets = np.concatenate([chunk.targets for chunk in self.chunks])
        self._groups = np.cumsum([0, *(len(chunk.tokens) for chunk in self.chunks)])
        self._records = np.cumsum([0, *(chunk.records for chunk in self.chunks)])

    def __len__(self) -> int:
        return int(self._groups[-1])

    @overload
    def __getitem__(self, index: int) -> PromptGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[PromptGroup]: ...
    def __getitem__(self, index: int | slice) -> PromptGroup | list[PromptGroup]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._groups, position, side="right")) - 1
        reader, row = self._reader(number), position - int(self._groups[number])
        source = self.sources[int(self._records[number]) + int(reader.record[row])]
        return reader.group(row, source)

    def __iter__(self) -> Iterator[PromptGroup]:
        return (self[i] for i in range(len(self)))

    @property
    def largest_id(self) -> int:
        return max(chunk.largest_id for chunk in self.chunks)

    @property
    def digest(self) -> str:
        """Of all token ids, in order."""
        return digest_json([chunk.digest for chunk in self.chunks])

    def readers(self) -> Iterator[ChunkReader]:
        """The chunks, one after the other."""
        return map(self._reader, range(len(self.chunks)))

    def _reader(self, number: int) -> ChunkReader:
        reader = self._open.pop(number, None) or self.chunks[number].open()
        self._open[number] = reader
        if len(self._open) > OPEN_CHUNKS:
            self._open.popitem(last=False)
        return reader


@runtime_checkable
class CountedRows(Protocol):
    """Rows whose lengths and digest are known without reading them all."""

    @property
    def num_tokens(self) -> NDArray[np.int32]: ...
    @property
    def num_targets(self) -> NDArray[np.int32]: ...
    @property
    def digest(self) -> str: ...


def token_counts(groups: Sequence[PromptGroup]) -> NDArray[np.int32]:
    """(G,) tokens that a packed batch holds of each group."""
    if isinstance(groups, CountedRows):
        return groups.num_tokens
    return np.array([group.num_tokens for group in groups], dtype=np.int32)


def count_labels(groups: Sequence[PromptGroup]) -> tuple[int, int]:
    """The number of labels of responses, and of those that are desirable."""
    if isinstance(groups, TokenRows):
        counts = np.array([reader.count_labels() for reader in groups.readers()])
        labels, desirable = counts.sum(0).tolist()
        return labels, desirable
    flat = [label for group in groups for label in group.labels]
    return len(flat), sum(flat)


def target_counts(groups: Sequence[PromptGroup]) -> NDArray[np.int32]:
    """(G,) tokens of each group that are trained on."""
    if isinstance(groups, CountedRows):
        return groups.num_targets
    return np.array([group.num_targets for group in groups], dtype=np.int32)
