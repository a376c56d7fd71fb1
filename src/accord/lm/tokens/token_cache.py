"""The user's cache of token chunks: what was tokenised once is not tokenised again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accord.errors import StorageError
from accord.records import Record
from accord.runs import digest_json
from accord.runs.atomic import write_bytes_atomic
from accord.runs.cache import cache_folder

log = logging.getLogger(__name__)

MAX_BYTES = 40 << 30
RECENT_SECONDS = 3 * 24 * 3600  # a chunk read since then may belong to a run that goes on
_FLAGS = ("add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens")


@dataclass(frozen=True, slots=True)
class TokenCache:
    """Chunks by a digest of all that decides their tokens: `settings` and the records' content."""

    settings: str
    folder: Path

    def path(self, records: Sequence[Record]) -> Path:
        """The file for these records, whose sources are their numbers within the chunk."""
        digest = hashlib.sha256(self.settings.encode())
        for record in records:
            digest.update(repr(record).encode("utf-8", "surrogatepass"))
        return self.folder / f"{digest.hexdigest()[:40]}.arrow"

    def write(self, path: Path, content: bytes) -> bool:
        """Whether a chunk could be written."""
        try:
            write_bytes_atomic(path, content)
        except (OSError, StorageError) as error:
            log.warning("Tokens are not cached for later runs: %s", error)
            return False
        return True

    def remove_old(self) -> None:
        """Remove the chunks that were not read for longest, beyond MAX_BYTES in all."""
        with suppress(OSError):
            files = [(entry.stat(), entry.path) for entry in os.scandir(self.folder)]
            surplus = sum(stat.st_size for stat, _ in files) - MAX_BYTES
            for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
                if surplus <= 0 or time.time() - stat.st_mtime < RECENT_SECONDS:
                    return
                os.unlink(path)
                surplus -= stat.st_size


def token_cache(tokenizer: Any, settings: dict[str, Any]) -> TokenCache | None:
    """The cache for a tokenizer and settings of encoding; None for a tokenizer in Python code,
    whose content can't be digested."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    template = getattr(tokenizer, "chat_template", None)
    values = {
        "settings": settings,
        "tokenizer": hashlib.sha256(backend.to_str().encode()).hexdigest(),
        "class": type(tokenizer).__name__,
        "template": template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "flags": {name: getattr(tokenizer, name, None) for name in _FLAGS},
        "versions": [version(name) for name in ("transformers", "tokenizers", "jinja2")],
        "code": code_digest(Path(__file__).parent),
        # A template may write today's date.
        "date": str(date.today()) if "strftime" in str(template) else None,
    }
    return TokenCache(digest_json(values), cache_folder("tokens"))


@cache
def code_digest(*paths: Path) -> str:
    """Of modules, and those in folders: another version of them may read or tokenise otherwise."""
    digest = hashlib.sha256()
    for path in paths:
        for module in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()
