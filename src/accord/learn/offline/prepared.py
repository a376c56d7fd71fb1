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

from accord import data, reasoning, records
from accord.compare import store, store_stream
from accord.compare.store.connection import database_url, is_store, sqlite_file, store_bytes
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
from accord.settings import verdicts
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

MAX_INDEXED = 64  # data sets in the cache
MIN_BYTES = 1 << 20
"""Size of the files from which on an index may be worth its digest."""
NAMES = "[0-9a-f]" * 32

_READING = [
    Path(data.__file__).parent,
    Path(store.__file__).parent,
    *sorted(Path(store_stream.__file__).parent.glob("*.py")),
    Path(__file__).parent,
    Path(reasoning.__file__),
    Path(records.__file__),
    Path(verdicts.__file__),
]
"""The code between a file and its records."""

Prepared = tuple[TokenRows, ReadReport, EncodeReport]


class DatasetKey(NamedTuple):
    """A digest of all that decides the records of a data set, None for one in a database, of which
    there is none without reading it; and the bytes that hold its rows."""

    digest: str | None
    bytes: int


def dataset_key(
    settings: TrainSettings, key: str, rows: int | None = None, large: int = 0
) -> DatasetKey | None:
    """The key of a data set of the settings: its files, stores or hub data sets, columns, filter,
    which rows (at most `rows` of one of `large` bytes); None for one that is small, or of another
    kind."""
    if isinstance(getattr(settings, key), dict):
        return None
    sources = settings.mixture or [] if key == "dataset" else []
    paths = [str(getattr(settings, key)), *(source.dataset for source in sources)]
    origins = [_origin(path) for path in paths]
    known = [origin for origin in origins if origin is not None]
    size = sum(origin.bytes for origin in known)
    if len(known) < len(origins) or size < MIN_BYTES:
        return None
    filters = [settings.filter, *(source.filter for source in sources)]
    checks = [f.judge_checks for f in filters if f is not None and f.judge_checks is not None]
    known += [_Origin(0, partial(_store_digest, path)) for path in checks]
    files = [(path, origin.digest()) for path, origin in zip([*paths, *checks], known, strict=True)]
    if any(digest is None for _, digest in files):
        return DatasetKey(None, size)
    rows = rows if size >= large else None
    is_choice = settings.max_samples or settings.max_eval_samples or sources or rows
    values = {
        "files": files,
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
    digest: Callable[[], str | None]


def _origin(path: str) -> _Origin | None:
    if is_store(path):
        size = store_bytes(path)
        return None if size is None else _Origin(size, partial(_store_digest, path))
    if Path(path).exists():
        return _Origin(files_size(path), partial(digest_path, path))
    if not means_hub(path):
        return None
    fingerprint, size = hub_rows_identity(path)
    return _Origin(size, lambda: fingerprint)


def _store_digest(path: str) -> str | None:
    """The digest of a store's file and its write-ahead log; None where there is no file."""
    file = sqlite_file(database_url(path)[0])
    return None if file is None or not file.is_file() else digest_path(file)


def may_be_prepared(key: DatasetKey) -> bool:
    """Whether a run has prepared this data set, perhaps for another tokenizer or other limits."""
    return key.digest is not None and (cache_folder("rows") / key.digest).is_dir()


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
    if cache is None or key.digest is None:
        return None
    return cache_folder("rows") / key.digest / cache.settings[:32]


def files_size(path: str) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = [Path(path)] if Path(path).is_file() else Path(path).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
