"""Many records to tokens: in chunks, by several processes, kept in the user's cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from accord.lm.digest import rows_digest
from accord.lm.tokens.encode import Encoding, check_some_used
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.processes import map_in_processes, usable_processes
from accord.lm.tokens.token_cache import TokenCache, token_cache
from accord.lm.tokens.token_rows import Chunk, Sources, TokenRows, read_chunk, write_chunk
from accord.records import Record, Source
from accord.runs.activity import describe_activity, report_activity

CHUNK_ERRORS = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
CHUNK_RECORDS = 2048
MIN_RECORDS = 2 * CHUNK_RECORDS
"""Records from which on chunks, processes and the cache are worth their start."""


def encode_in_chunks(
    records: Iterable[Record],
    encoding: Encoding,
    *,
    total: int | None = None,
    processes: int | None = None,
) -> tuple[TokenRows, EncodeReport]:
    """As `encode`, for many records (some `total`), which are taken as they are needed: their
    tokens stay on the disk.

    A chunk whose records, tokenizer, template and limits were met before comes from the user's
    cache, so a killed run goes on behind the chunks that it had done. Raises DataError where no
    record can be used, and WorkError where a process is killed.
    """
    cache = cache_of(encoding)
    sources, report, chunks = Sources(), EncodeReport(), list[Chunk]()
    work = _ChunkWork(encoding, cache)
    pieces = _pieces(records, encoding, sources)
    for origin in map_in_processes(work, pieces, processes or usable_processes()):
        chunk, first = open_chunk(origin), report.records
        report.add(chunk.report, partial(_source, sources, first))
        chunks.append(chunk)
        report_activity(describe_activity("tokenising", report.records, total))
    report_activity("")
    if cache is not None:
        cache.remove_old()
    check_some_used(report, encoding.limits)
    return TokenRows(chunks, sources), report


def _pieces(
    records: Iterable[Record], encoding: Encoding, sources: Sources
) -> Iterator[list[Record]]:
    """The records of each chunk, whose sources go to `sources`: in their stead they have the number
    within the chunk, so that equal content has equal chunks wherever it is read."""
    piece: list[Record] = []
    for number, record in enumerate(records):
        sources.append(record.source)
        piece.append(replace(record, source=Source("", len(piece))))
        if number == 0:
            encoding.encode(piece)  # what is worked out once per tokenizer, before processes fork
        if len(piece) == CHUNK_RECORDS:
            yield piece
            piece = []
    if piece:
        yield piece


def cache_of(encoding: Encoding) -> TokenCache | None:
    """The cache of chunks that are tokenised in this way; None where they can't be cached."""
    settings = {
        "limits": asdict(encoding.limits),
        "eos": sorted(encoding.eos_ids),
        "loss_on": encoding.loss_on,
        "desirable_from": encoding.desirable_from,
    }
    return token_cache(encoding.tokenizer, settings)


@dataclass(frozen=True, slots=True)
class _ChunkWork:
    """The file of a chunk's records, or its bytes where there is no cache."""

    encoding: Encoding
    cache: TokenCache | None

    def __call__(self, records: Sequence[Record]) -> Path | bytes:
        path = None if self.cache is None else self.cache.path(records)
        if path is not None and _is_readable(path):
            return path
        groups, report = self.encoding.encode(records)
        facts = {"report": report.to_values(), "digest": rows_digest(groups)}
        content = write_chunk(groups, facts)
        if self.cache is not None and path is not None and self.cache.write(path, content):
            return path
        return content


def _source(sources: Sources, first: int, within: Source) -> Source:
    """The source of a record, of which `within` has the number within its chunk."""
    return sources[first + (within.line or 0)]


def _is_readable(path: Path) -> bool:
    with suppress(*CHUNK_ERRORS):
        open_chunk(path)
        return True
    return False


def open_chunk(origin: Path | bytes) -> Chunk:
    """Raises an error of CHUNK_ERRORS where it is missing or damaged."""
    reader, facts = read_chunk(origin)
    if isinstance(origin, Path):
        os.utime(origin)  # what is in use is not removed from the cache
    report = EncodeReport.from_values(facts["report"])
    return Chunk(
        origin,
        report.records,
        reader.tokens,
        reader.targets.copy(),
        reader.largest_id,
        facts["digest"],
        report,
    )
