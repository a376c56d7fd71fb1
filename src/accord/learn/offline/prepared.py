"""Large data sets that an earlier run has read and tokenised: a second start reads an index."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from accord import data, reasoning
from accord.compare.store.connection import is_store
from accord.data.hub import hub_rows_identity
from accord.data.report import ReadReport
from accord.errors import StorageError
from accord.hub_names import means_hub
from accord.lm.tokens.encode import Encoding
from accord.lm.tokens.encode_chunks import CHUNK_ERRORS, cache_of, open_chunk
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.token_cache import code_digest
from accord.lm.tokens.token_rows import Sources, TokenRows
from accord.runs import atomic_folder, digest_json, digest_path, write_json_atomic
from accord.runs.cache import cache_folder, remove_oldest
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

MAX_INDEXED = 64  # data sets in the cache
MIN_BYTES = 1 << 20
"""Size of the files from which on an index may be worth its digest."""
NAMES = "[0-9a-f]" * 32

_READING = [Path(data.__file__).parent, Path(__file__).parent, Path(reasoning.__file__)]
"""The code between a file and its records."""

Prepared = tuple[TokenRows, ReadReport, EncodeReport]


class DatasetKey(NamedTuple):
    """A digest of all that decides the records of a data set, and the bytes that hold its rows."""

    digest: str
    bytes: int


def dataset_key(
    settings: TrainSettings, key: str, rows: int | None = None, large: int = 0
) -> DatasetKey | None:
    """The key of a data set of the settings: its files or hub data sets, columns, which rows (at
    most `rows` of one of `large` bytes); None for one that is small, or neither a file nor of the
    hub."""
    sources = settings.mixture or [] if key == "dataset" else []
    paths = [str(getattr(settings, key)), *(source.dataset for source in sources)]
    origins = [_origin(path) for path in paths]
    known = [origin for origin in origins if origin is not None]
    size = sum(origin.bytes for origin in known)
    if len(known) < len(origins) or size < MIN_BYTES:
        return None
    rows = rows if size >= large else None
    is_choice = settings.max_samples or settings.max_eval_samples or sources or rows
    values = {
        "files": [(path, origin.digest()) for path, origin in zip(paths, known, strict=True)],
        "method": type(settings).__name__,
        "mixture": [source.model_dump(mode="json") for source in sources],
        "seed": settings.seed if is_choice else None,
        "rows": rows,
        "code": code_digest(*_READING),
        **settings.model_dump(
            mode="json",
            include={
                "columns",
                "filter",
                "dialogue_text",
                "max_samples",
                "max_eval_samples",
                "samples_from",
            },
        ),
    }
    return DatasetKey(digest_json([key, values])[:32], size)


class _Origin(NamedTuple):
    """Where rows come from; its digest may take the time of reading them."""

    bytes: int
    digest: Callable[[], str]


def _origin(path: str) -> _Origin | None:
    if Path(path).exists():
        return None if is_store(path) else _Origin(files_size(path), partial(digest_path, path))
    if not means_hub(path):
        return None
    fingerprint, size = hub_rows_identity(path)
    return _Origin(size, lambda: fingerprint)


def may_be_prepared(key: DatasetKey) -> bool:
    """Whether a run has prepared this data set, perhaps for another tokenizer or other limits."""
    return (cache_folder("rows") / key.digest).is_dir()


def open_prepared(key: DatasetKey, encoding: Encoding) -> Prepared | None:
    """The rows of a data set, if they were tokenised in this way and all their chunks are there."""
    folder = _folder(key, encoding)
    if folder is None or not folder.is_dir():
        return None
    try:
        index = json.loads((folder / "index.json").read_text())
        arrays = load_file(folder / "sources.safetensors")
        paths = [(path, False) for path in index["paths"]]
        sources = Sources(paths, arrays["path_of"], arrays["line_of"])
        chunks = [open_chunk(Path(path)) for path in index["chunks"]]
        report = EncodeReport.from_values(index["encoded"])
        os.utime(folder.parent)
        return TokenRows(chunks, sources), ReadReport.from_json(index["read"]), report
    except (*CHUNK_ERRORS, SafetensorError) as error:
        log.info("The tokens in %s are not complete (%s): the rows are read again.", folder, error)
        return None


def save_prepared(
    key: DatasetKey, encoding: Encoding, rows: TokenRows, read: ReadReport, encoded: EncodeReport
) -> None:
    """Write the index of a data set. Where it can't be written, the next run reads the rows."""
    folder, sources = _folder(key, encoding), rows.sources
    if folder is None or not all(isinstance(chunk.origin, Path) for chunk in rows.chunks):
        return
    index = {
        "read": read.to_json(),
        "encoded": encoded.to_values(),
        "chunks": [str(chunk.origin) for chunk in rows.chunks],
        "paths": [path for path, _ in sources.paths],
    }
    try:
        with atomic_folder(folder) as temporary:
            write_json_atomic(temporary / "index.json", index, indent=None)
            save_file(sources.to_arrays(), temporary / "sources.safetensors")
        remove_oldest(folder.parent.parent, MAX_INDEXED, NAMES)
    except (OSError, StorageError, SafetensorError) as error:
        log.warning("The index of tokens is not cached for later runs: %s", error)


def _folder(key: DatasetKey, encoding: Encoding) -> Path | None:
    cache = cache_of(encoding)
    return None if cache is None else cache_folder("rows") / key.digest / cache.settings[:32]


def files_size(path: str) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = [Path(path)] if Path(path).is_file() else Path(path).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
