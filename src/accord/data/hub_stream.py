"""The first rows of a hub data set, without a download of all of it: a file in the user's cache."""

from __future__ import annotations

import glob
import itertools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from accord.data.files import make_row
from accord.data.hub import stream_hub_rows
from accord.data.values import json_value
from accord.errors import DataError
from accord.records import Source
from accord.runs import digest_json
from accord.runs.activity import with_activity
from accord.runs.atomic import write_lines_atomic
from accord.runs.cache import cache_folder

log = logging.getLogger(__name__)


def first_hub_rows(hub_name: str, count: int) -> Path:
    """A JSONL file of the first `count` rows, streamed from the hub unless an earlier run did.

    A version of the data set that the hub knows as another is streamed again; where it does not
    say, the newest file that is here is used. Raises DataError where the hub does not give the
    rows, or none can be used.
    """
    folder, revision = cache_folder("streamed"), _revision(hub_name.split(":")[0])
    name = re.sub(r"[^\w.-]+", "--", hub_name)
    stem = f"{name}.first-{count}.{digest_json([hub_name, count])[:8]}"
    path = folder / f"{stem}.{revision or 'unknown'}.jsonl"
    if revision is None:
        files = folder.glob(f"{glob.escape(stem)}.*.jsonl")
        path = max(files, key=lambda file: file.stat().st_mtime, default=path)
    if path.is_file():
        log.info("The first %s rows of %s are in %s.", f"{count:,}", hub_name, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = with_activity(_lines(hub_name, count), f"streaming {hub_name}", count)
    write_lines_atomic(path, rows)
    return path


def _lines(hub_name: str, count: int) -> Iterator[str]:
    """The rows as JSON; one that can't be written is left out, and counted in the log."""
    errors: list[str] = []
    rows = 0
    try:
        for origin, line, values in itertools.islice(stream_hub_rows(hub_name), count):
            row = make_row(values, Source(origin, line))
            rows += 1
            if row.error is None:
                yield json.dumps(json_value(row.values), ensure_ascii=False) + "\n"
            else:
                errors.append(f"{row.source} {row.error}")
    except (OSError, ValueError) as error:  # of a connection, or of a damaged file
        raise DataError(
            f"{hub_name} stopped after {rows:,} rows: {type(error).__name__}: {error}. Run the "
            "same command again, or download the data set and give its folder."
        ) from error
    if len(errors) == rows:
        reason = f": {errors[0]}" if errors else ""
        raise DataError(f"{hub_name} gave no row that can be used{reason}. Give another data set.")
    if errors:
        log.warning("%s: %s rows are left out (the first: %s).", hub_name, len(errors), errors[0])


def _revision(name: str) -> str | None:
    """The hub's name of the newest version; None where the hub is not reached."""
    import huggingface_hub

    try:
        return huggingface_hub.dataset_info(name, timeout=10).sha
    except Exception as error:  # the client raises many kinds
        log.info("The hub does not say which version of %s is the newest: %s", name, error)
        return None
