"""Large data sets that an earlier run has read and tokenised: a second start reads an index."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from accord import data, reasoning
from accord.compare.store.connection import is_store
from accord.data.report import ReadReport
from accord.errors import StorageError
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


def dataset_key(settings: TrainSettings, key: str) -> str | None:
    """A digest of all that decides the records of a data set of the settings: files, columns, which
    rows; None for one that is small, or no file or folder."""
    sources = settings.mixture or [] if key == "dataset" else []
    paths = [str(getattr(settings, key)), *(source.dataset for source in sources)]
    if any(not Path(path).exists() or is_store(path) for path in paths):
        return None
    if sum(map(files_size, paths)) < MIN_BYTES:
        return None
    is_choice = settings.max_samples or settings.max_eval_samples or sources
    values = {
        "files": [(path, digest_path(path)) for path in paths],
        "method": type(settings).__name__,
        "mixture": [source.model_dump(mode="json") for source in sources],
        "seed": settings.seed if is_choice else None,
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
    return digest_json([key, values])[:32]


def may_be_prepared(key: str) -> bool:
    """Whether a run has prepared this data set, perhaps for another tokenizer or other limits."""
    return (cache_folder("rows") / key).is_dir()


def open_prepared(key: str, encoding: Encoding) -> Prepared | None:
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
    key: str, encoding: Encoding, rows: TokenRows, read: ReadReport, encoded: EncodeReport
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


def _folder(key: str, encoding: Encoding) -> Path | None:
    cache = cache_of(encoding)
    return None if cache is None else cache_folder("rows") / key / cache.settings[:32]


def files_size(path: str) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = [Path(path)] if Path(path).is_file() else Path(path).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
